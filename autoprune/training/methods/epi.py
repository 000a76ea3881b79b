"""Prune as early as is safe, by the widths."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from autoprune.training.methods.method import Pruning
from autoprune.training.methods.waiting import WaitingUnits, stability


class Epi(WaitingUnits):
    """PaT: prune when the widths that the allocation would choose have stopped changing (Shen et al. 2022).

    EPI_t = mean over j = 1..r of 1 - mean_g |n_t - n_{t-j}| / (n_t + n_{t-j}), with n_t the widths that hold the
    budgets after epoch t, of each group g that may lose units. Units go at the first epoch with at least r before it at
    which EPI_t >= tau and is not below the r values before (https://arxiv.org/abs/2110.12007, eq. 4-6 as quoted by a
    re-implementation; METHODS-TRAINING 10). The widths are one threshold through the norms of all units' filters, each
    group's divided by its mean (ours), and the units of lowest norm go.

    Args:
        tau: Published: 0.983 for magnitudes, 0.944 for gradients.
        last: r, or as many epochs as a shorter training has room for (ours).
    """

    name: ClassVar[str] = "epi"
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"last": (1, math.inf), "tau": (0, 1)}

    def __init__(self, pruning: Pruning | None = None, *, tau: float = 0.983, last: int = 5) -> None:
        super().__init__(pruning, last=last)
        self.tau = tau

    @torch.no_grad()
    def choose(self) -> tuple[Tensor, ...]:
        """See `WaitingUnits`."""
        return self.ranked(self.norms(), "mean")

    def is_settled(self) -> bool:
        """See `WaitingUnits`."""
        self.history = self.history[-2 * self.compared - 1 :]
        if len(self.history) <= self.compared:
            return False
        *before, now = stability([self.widths(choice) for choice in self.history], self.compared)
        return now >= self.tau and all(now >= value for value in before[-self.compared :])
