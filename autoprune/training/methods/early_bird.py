"""Prune as early as is safe, by the units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from autoprune.training.methods.method import Pruning
from autoprune.training.methods.waiting import WaitingUnits


class EarlyBird(WaitingUnits):
    """Early-bird tickets: prune when the units that one threshold through all |gamma| would leave stay the same.

    After each epoch the choice is compared with those of the four before; when each differs in at most a tenth of all
    units that may go (normalised Hamming distance), it is made (You et al. 2020, https://arxiv.org/abs/1909.11957; five
    masks and 0.1 as in its code). The threshold is where the budgets hold, not at a given share. Coupled scales are
    summed; groups without batch-norm go last.

    Args:
        distance: Largest share of the units that may go that differs.
        last: Earlier epochs that are compared, or as many as a shorter training has room for (ours).
    """

    name: ClassVar[str] = "early-bird"
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"last": (1, math.inf), "distance": (0, 1)}
    reads_scales: ClassVar[bool] = True

    def __init__(self, pruning: Pruning | None = None, *, distance: float = 0.1, last: int = 4) -> None:
        super().__init__(pruning, last=last)
        self.distance = distance

    def choose(self) -> tuple[Tensor, ...]:
        """See `WaitingUnits`."""
        return self.ranked(self.scales())

    def is_settled(self) -> bool:
        """See `WaitingUnits`."""
        self.history = self.history[-self.compared - 1 :]
        *before, now = [torch.cat(self.parts(choice)) for choice in self.history]
        return len(before) >= self.compared and all(float((now != b).double().mean()) <= self.distance for b in before)
