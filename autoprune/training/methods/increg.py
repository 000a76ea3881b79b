"""Incremental regularisation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from autoprune.training.methods.finding import FindingUnits, ranks
from autoprune.training.methods.method import Plan, Pruning, Step

U = 0.25  # hard-coded in the release: the rise at the point of symmetry, of the one at rank 0


def rise(rank: Tensor, count: int) -> Tensor:
    """By how much the penalty of the unit of each rank rises, where `count` are to go; 1 at rank 0, 0 at `count`.

    e^(-a r) below N, 2u - e^(-a (2N - r)) above, with a = ln(2/u) / count and N = -ln(u) / a.
    """
    a = math.log(2 / U) / count
    middle = -math.log(U) / a
    return torch.where(rank < middle, torch.exp(-a * rank), 2 * U - torch.exp(-a * (2 * middle - rank)))


class IncReg(FindingUnits):
    """IncReg: each unit's penalty rises or falls with its rank by L1, until it is pruned for good (Wang et al. 2019).

    In every step the units of a group that are left are ranked by the L1 norm; by the rank r of the mean of all ranks
    so far, lambda rises by strength * rise(r), not below 0; grad(w) += lambda * w; a unit is removed when its lambda
    reaches `ceiling`, and when enough are, the rest is free (https://arxiv.org/abs/1811.08390, with u of its code). One
    threshold through the L1 norms in the beginning, relative to their group's mean, that holds the budgets says how
    many go in a group (ours; in the paper a share of each). What has not got there at the last step goes by its lambda.

    Args:
        strength: Rise of lambda at rank 0 (published: 2.5e-4, half the weight decay); None: six ceilings in the phase,
            which sees 60 of 64 units through if ranks do not change (ours).
        ceiling: Where a unit is removed (published: 2.5).
    """

    name: ClassVar[str] = "increg"
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"ceiling": (1e-12, math.inf)}
    strengths: ClassVar[tuple[str, ...]] = ("strength", "ceiling")
    REMEMBERED: ClassVar[tuple[str, ...]] = ("weights", "ranks", "counts")
    NOTHING: ClassVar[Mapping[str, float]] = {"strength": 0.0}

    def __init__(self, pruning: Pruning | None = None, *, strength: float | None = None, ceiling: float = 2.5) -> None:
        super().__init__(pruning)
        self.strength, self.ceiling = strength, ceiling

    def begin(self, net: nn.Module, plan: Plan) -> None:
        """See `FindingUnits`."""
        super().begin(net, plan)
        self.rise = 6 * self.ceiling / plan.steps if self.strength is None else self.strength
        self.counts = [int(p.sum()) for p in self.ranked(self._sizes(), "mean")]
        self.weights = [torch.zeros(u.size, dtype=torch.float64) for u in self.units]  # lambda, per group [C]
        self.ranks = [torch.zeros(u.size, dtype=torch.float64) for u in self.units]  # mean so far

    @torch.no_grad()
    def _sizes(self) -> list[Tensor]:
        return [units.rows().abs().mean(1).cpu() for units in self.units]

    def push(self, step: int) -> tuple[float, ...]:
        """See `Method`: at rank 0."""
        return (min(self.rise * (step + 1), self.ceiling),)

    def after_backward(self, net: nn.Module, step: Step) -> float:
        """Rank, let lambda rise, remove, and push, as long as units are left to go."""
        for i, (units, size) in enumerate(zip(self.units, self._sizes(), strict=True)):
            gone = self.pruned[i]
            rank = ranks(torch.where(gone, -1.0, size)).double()
            self.ranks[i] = (step.number * self.ranks[i] + rank) / (step.number + 1)
            if left := self.counts[i] - int(gone.sum()):
                order = ranks(torch.where(gone, math.inf, self.ranks[i]), -self.weights[i], size).double()
                risen = (self.weights[i] + self.rise * rise(order, left)).clamp(min=0)
                self.weights[i] = torch.where(gone, self.weights[i], risen)
                self._remove(i, left, self.ceiling)
                units.push_(torch.where(self.pruned[i], 0.0, self.weights[i]).to(torch.float32))
        return 0.0

    def _remove(self, i: int, most: int, least: float) -> None:
        """Those whose lambda has got to `least`; at most so many, the highest first, of equal ones the lowest ranks."""
        found = torch.where(self.pruned[i], -1.0, self.weights[i])
        chosen = ranks(-found, self.ranks[i], self.units[i].norms()).argsort()[:most]
        self.pruned[i][chosen[found[chosen] >= least]] = True

    def after_step(self, net: nn.Module, step: Step) -> None:
        """What is removed stays at zero."""
        if step.number + 1 == self.steps:
            for i, (count, gone) in enumerate(zip(self.counts, self.pruned, strict=True)):
                self._remove(i, count - int(gone.sum()), 0.0)
        self.mask()
        super().after_step(net, step)

    def gone(self) -> tuple[Tensor, ...]:
        """See `Method`: all that has been removed so far."""
        return self.pruned
