"""MorphNet: shrink by cost, expand evenly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.training.methods.finding import FindingUnits
from autoprune.training.methods.method import Plan, Pruning, Step

ALIVE = 0.01  # |gamma| above it, as published


class MorphNet(FindingUnits):
    """MorphNet: an L1 penalty on scales, weighted by what a channel costs now; then an even expansion (Gordon 2018).

    Loss: strength * sum over groups of (cost of its last unit / dense cost) * sum of |gamma|, where the costs are those
    that the budgets limit, at the widths that are alive, i.e. have |gamma| > 0.01 (https://arxiv.org/abs/1711.06798; of
    MACs: C (A_in |gamma_out| + A_out |gamma_in|) of each layer, and C (2 A - 1) |gamma| of one that reads what it
    makes, the paper's 2 A). They are taken anew after each epoch (ours). Of coupled batch-norms the largest |gamma|
    counts. In the end all groups are widened, or narrowed, by one factor until the budgets are used up. The paper
    trains what it finds from scratch; here it keeps its weights.

    Args:
        strength: Of the loss; None: as LeGR's authors ran it on ResNet-56 (60 epochs at 1e-3, twice the inverse of the
            dense cost), at the rates of this phase's steps.
    """

    name: ClassVar[str] = "morphnet"
    reads_scales: ClassVar[bool] = True
    strengths: ClassVar[tuple[str, ...]] = ("strength",)
    REMEMBERED: ClassVar[tuple[str, ...]] = ("prices",)
    NOTHING: ClassVar[Mapping[str, float]] = {"strength": 0.0}

    def __init__(self, pruning: Pruning | None = None, *, strength: float | None = None) -> None:
        super().__init__(pruning)
        self.strength = strength

    def begin(self, net: nn.Module, plan: Plan) -> None:
        """See `FindingUnits`."""
        super().begin(net, plan)
        self.check_scales()
        scaled = 2 * 60 * 1e-3 * plan.per_epoch / self.reach(plan)
        self.weight = scaled if self.strength is None else self.strength
        self.prices = self.marginal([int(a.sum()) for a in self.alive()])

    def largest(self) -> list[Tensor]:
        """Per group [C] the largest |gamma| of a unit; none (0) where there is no batch-norm."""
        found = [units.rows("scale") for units in self.units]
        return [f.abs().amax(1) if f.shape[1] else f.sum(1) for f in found]

    def alive(self) -> list[Tensor]:
        """Per group [C] which units are alive; all where there is no batch-norm, or none may go."""
        pairs = zip(self.units, self.largest(), strict=True)
        return [
            top > ALIVE if units.of("scale") and units in self.prunable else torch.ones_like(top, dtype=torch.bool)
            for units, top in pairs
        ]

    def marginal(self, widths: list[int]) -> list[float]:
        """Per group what its last unit costs of what the budgets limit, as a share of the dense network's."""
        floor = np.maximum(np.array(widths), 1)
        feasibility, steps = self.problem.feasibility, np.eye(len(floor), dtype=np.int64)
        table = np.concatenate([floor[None], floor - steps, np.array(self.space.full)[None]]).astype(float)
        total = np.zeros(len(floor))
        for name in feasibility.limits:
            prices = np.asarray(feasibility.costs[name](table))
            total += np.maximum(prices[0] - prices[1:-1], 0) / prices[-1]
        return [float(t) * (units in self.prunable) for t, units in zip(total, self.units, strict=True)]

    def penalty(self, net: nn.Module, step: Step) -> Tensor | None:
        """See the class."""
        if not self.weight:
            return None
        found = [price * top.sum() for price, top in zip(self.prices, self.largest(), strict=True)]
        return self.weight * torch.stack(found).sum()

    def end_epoch(self, net: nn.Module, epoch: int) -> None:
        """Price anew."""
        self.prices = self.marginal([int(a.sum()) for a in self.alive()])

    def leave(self) -> None:
        """Expand, or shrink, evenly."""
        alive = np.array([float(a.sum()) for a in self.alive()])
        low, high = 0.0, max(self.space.full) / max(1.0, alive.min())
        for _ in range(40):
            middle = (low + high) / 2
            fits = not self.problem.feasibility.violation(self.space.clip(middle * alive))
            low, high = (middle, high) if fits else (low, middle)
        self.pruned = self.cut(self.problem.project(self.space.clip(low * alive)), self.scales())
        super().leave()
