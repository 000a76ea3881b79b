"""Growing regularisation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from autoprune.training.methods.acting import STABILISE
from autoprune.training.methods.given import GivenUnits
from autoprune.training.methods.method import Plan, Pruning, Step

ENOUGH = 1000.0  # times larger than the pruned units are the kept ones: they need no push any more
SMOOTHING = 0.9  # of that ratio, over updates


class GReg1(GivenUnits):
    """GReg-1: an L2 penalty on the pruned units that grows until they are nothing (Wang et al. 2021).

    Every `every` steps lambda of the pruned units grows by `growth`; grad(w) += lambda * w after the backward pass, on
    top of the optimiser's own weight decay (https://arxiv.org/abs/2012.09243, with the constants of its code). A group
    stops growing when the smoothed ratio of the mean |w| of kept and pruned units is 1000 in all groups, or its own
    lambda exceeds `ceiling`. The last eleventh of the phase holds lambda. The paper pushes the filters of one
    convolution; here those of all members of a unit. Biases and normalisations are left alone, as published.

    Args:
        growth: Of lambda, each time (published: 1e-4); None: what reaches the ceiling when the last eleventh begins.
        every: Steps between (published: 10 on CIFAR, 5 on ImageNet).
        ceiling: Of lambda.
    """

    name: ClassVar[str] = "greg1"
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"every": (1, math.inf)}
    strengths: ClassVar[tuple[str, ...]] = ("growth", "ceiling")
    REMEMBERED: ClassVar[tuple[str, ...]] = (
        "strength",
        "ratios",
    )

    def __init__(
        self, pruning: Pruning | None = None, *, growth: float | None = None, every: int = 10, ceiling: float = 1.0
    ) -> None:
        super().__init__(pruning)
        self.growth, self.every, self.ceiling = growth, every, ceiling

    def begin(self, net: nn.Module, plan: Plan) -> None:
        """See `Method`."""
        super().begin(net, plan)
        self.growing = self.steps - round(STABILISE * self.steps)  # steps in which lambda may grow
        self.delta = self.ceiling * self.every / self.growing if self.growth is None else self.growth
        self.strength = [0.0] * len(self.units)  # lambda
        self.ratios: list[float] = []  # smoothed; none before the first update

    def least(self) -> int:
        """Two updates, and a step to hold."""
        return 3 * self.every

    def push(self, step: int) -> tuple[float, ...]:
        """See `Method`: as long as no ratio stops it."""
        return (grown(self.delta, 1 + min(step, self.growing - 1) // self.every, self.ceiling),)

    def after_backward(self, net: nn.Module, step: Step) -> float:
        """Let lambda grow, and push."""
        if step.number % self.every == 0 and step.number < self.growing and self.delta:
            self._update()
        for units, pruned, strength in zip(self.units, self.pruned, self.strength, strict=True):
            units.push_(strength * pruned)
        return 0.0

    @torch.no_grad()
    def _update(self) -> None:
        self.ratios = smoothed_ratio(self.ratios, [u.rows().abs().mean(1).cpu() for u in self.units], self.pruned)
        if min(self.ratios) < ENOUGH:
            self.strength = [s if s > self.ceiling else s + self.delta for s in self.strength]


def grown(delta: float, updates: int, ceiling: float) -> float:
    """Lambda after so many updates, the last of which is the one that exceeds the ceiling."""
    if not delta:
        return 0.0
    return delta * (min(updates, max(0, ceiling // delta + 1)) if math.isfinite(ceiling) else updates)


def smoothed_ratio(before: list[float], sizes: Sequence[Tensor], pruned: Sequence[Tensor]) -> list[float]:
    """Per group how many times larger its kept units are than its pruned ones, in the mean; smoothed over updates."""
    pairs = list(zip(sizes, pruned, strict=True))
    # Where nothing is to be pushed, or nothing kept, it is enough.
    found = [float(s[~p].mean() / s[p].mean().clamp(min=1e-30)) if 0 < p.sum() < len(p) else ENOUGH for s, p in pairs]
    return [SMOOTHING * a + (1 - SMOOTHING) * b for a, b in zip(before or found, found, strict=True)]
