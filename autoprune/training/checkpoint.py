"""A training's state on disk: there whole or not at all, and never a pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from autoprune.files import disk, whole_file


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values, so that a crash at any moment leaves the old file or the new one.

    Raises:
        DiskError: If it cannot be written.
    """
    with disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            written = _Written(file)
            try:
                torch.save(dict(state), cast("IO[bytes]", written))
            except RuntimeError as error:  # "[enforce fail at inline_container.cc:672]": nothing a user can read
                raise written.error or OSError(str(error).splitlines()[0]) from error


class _Written:
    """A file that remembers why it could not be written: torch says so in its own words, without the cause."""

    def __init__(self, file: IO[bytes]) -> None:
        self.error: OSError | None = None
        self._file = file

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


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


def unlike(own: Any, found: Any, name: str = "") -> str:
    """In what a state differs from one of the same training in its first moment, in words; empty: in nothing.

    Tensors have the same shapes, dictionaries the same keys and lists the same length, but for those that begin empty.
    What begins as a number or as nothing may have become anything.
    Dictionaries within lists are not looked into: they are those of optimisers, whose versions differ.

    Args:
        own: The state in the first moment.
        found: That of a checkpoint.
        name: What it is called.
    """
    parts: dict[str, tuple[Any, Any]] = {}
    if isinstance(own, Tensor) and own.numel():
        if not isinstance(found, Tensor):
            return f"'{name}' is no tensor"
        if own.shape != found.shape:
            return f"'{name}' has the shape {[*found.shape]} instead of {[*own.shape]}"
    elif isinstance(own, Mapping) and own:
        if not isinstance(found, Mapping):
            return f"'{name}' is no dictionary"
        for key in {**own, **found}:
            part = f"{name}.{key}".lstrip(".")
            if key not in own or key not in found:
                return f"'{part}' is {'missing' if key in own else 'unknown'}"
            parts[part] = own[key], found[key]
    elif isinstance(own, (list, tuple)) and own:
        if not isinstance(found, (list, tuple)):
            return f"'{name}' is no list"
        if len(own) != len(found):
            return f"'{name}' has {len(found)} items instead of {len(own)}"
        pairs = enumerate(zip(own, found, strict=True))
        parts = {f"{name}[{i}]": pair for i, pair in pairs if not isinstance(pair[0], Mapping)}
    return next(filter(None, (unlike(*pair, part) for part, pair in parts.items())), "")
