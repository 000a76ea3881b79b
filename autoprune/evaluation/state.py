"""Where a candidate in training keeps its state, and where a finalist leaves the weights it was scored with.

Whoever takes over from a killed worker goes on from the one; the winner is delivered with none worse than the other.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from pathlib import Path

from autoprune.evaluation.plan import EvaluationPlan
from autoprune.evaluation.settings import EvaluationSettings
from search_spaces import Kept


def state_files(settings: EvaluationSettings, kept: Kept, plan: EvaluationPlan) -> dict[int, Path]:
    """Batch size (the whole one, and half of it: trainings of their own) -> file; empty where none is to be kept.

    The name follows from what is trained, not from who trains it.
    """
    if not settings.checkpoints or plan.steps <= settings.checkpoint_every:
        return {}
    folder, name = Path(settings.checkpoints), _name(settings, kept, plan)
    return {batch: folder / f"{name}-{batch}.pt" for batch in (settings.batch_size, settings.batch_size // 2)}


def trained_file(settings: EvaluationSettings, kept: Kept, plan: EvaluationPlan) -> Path | None:
    """Where the weights lie that a finalist was scored with; None if none are kept."""
    if not settings.trained or not plan.steps:
        return None
    return Path(settings.trained) / f"{_name(settings, kept, plan)}.safetensors"


def _name(settings: EvaluationSettings, kept: Kept, plan: EvaluationPlan) -> str:
    digest = hashlib.sha256(repr((plan, settings.seed)).encode())
    for units in kept:
        digest.update(units.tobytes() + b";")
    return digest.hexdigest()[:24]


def remove(files: Iterable[Path]) -> None:
    """The evaluation has finished."""
    for file in files:
        with contextlib.suppress(OSError):
            file.unlink()
