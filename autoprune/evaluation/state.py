"""Where a candidate in training keeps its state, so that whoever takes over from a killed worker goes on there."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from pathlib import Path

from autoprune.evaluation.fidelity import Fidelity
from autoprune.evaluation.settings import EvaluationSettings
from search_spaces import Kept


def state_files(settings: EvaluationSettings, kept: Kept, plan: Fidelity) -> dict[int, Path]:
    """Batch size (the whole one, and half of it: trainings of their own) -> file; empty where none is to be kept.

    The name follows from what is trained, not from who trains it.
    """
    if not settings.checkpoints or plan.steps <= settings.checkpoint_every:
        return {}
    digest = hashlib.sha256(repr((plan, settings.seed)).encode())
    for units in kept:
        digest.update(units.tobytes() + b";")
    folder, name = Path(settings.checkpoints), digest.hexdigest()[:24]
    return {batch: folder / f"{name}-{batch}.pt" for batch in (settings.batch_size, settings.batch_size // 2)}


def remove(files: Iterable[Path]) -> None:
    """The evaluation has finished."""
    for file in files:
        with contextlib.suppress(OSError):
            file.unlink()
