"""A training's state on disk: there whole or not at all, and never a pickle."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from autoprune.files import disk


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values, so that a crash at any moment leaves the old file or the new one.

    Raises:
        DiskError: If it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                try:
                    torch.save(dict(state), file)
                except RuntimeError as error:  # torch's words for a full disk
                    raise OSError(str(error).splitlines()[0]) from error
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def read(path: Path, device: torch.device) -> dict[str, Any]:
    """What `save` wrote (weights only, never unpickled).

    Raises:
        ValueError: If the file is not such a checkpoint.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"checkpoint '{path}': unreadable ({reason}); delete it to train from the start") from error
    if not isinstance(state, dict):
        raise ValueError(f"checkpoint '{path}': not one of a fine-tune; delete it to train from the start")
    return state
