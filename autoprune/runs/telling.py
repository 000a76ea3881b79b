"""What an export tells of how its network came about, beside its scores: the fine-tune's curve, results per class.

It stands with the metrics in architecture.json, so it is there whole or not at all, as the weights are; and it is
small: a training of a million steps is `MOST_POINTS` means.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from autoprune.tasks import Task

TRAINING, PER_CLASS = "training", "per_class"  # keys among the metrics
MOST_POINTS = 200  # of a curve


def curve(losses: Sequence[float]) -> dict[str, Any]:
    """The course of a training.

    Args:
        losses: Of every step.

    Returns:
        "step" and "loss": the mean loss of the steps up to each of at most `MOST_POINTS`, since the one before.
    """
    ends = np.linspace(0, len(losses), min(len(losses), MOST_POINTS) + 1).round().astype(int)
    means = [float(np.mean(losses[a:b])) for a, b in itertools.pairwise(ends)]
    return {"step": ends[1:].tolist(), "loss": [float(f"{mean:.6g}") for mean in means]}


def held_out(task: Task) -> str:
    """The split on which results are told: "test", or "val" where there is none."""
    return "test" if task.has("test") else "val"


def per_class(task: Task, split: str, dense: list[int], pruned: list[int]) -> dict[str, Any]:
    """Results for each class.

    Args:
        task: Measured on.
        split: "val" or "test".
        dense: How many images of each class the dense network classifies correctly.
        pruned: Likewise.

    Returns:
        "split"; "classes" (their names) and, in that order, "images", "dense" and "pruned" (numbers of images); nothing
        where the task knows no classes.
    """
    about = task.by_class(split)
    return {"split": split, **about, "dense": dense, "pruned": pruned} if about else {}
