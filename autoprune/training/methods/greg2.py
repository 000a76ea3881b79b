"""Growing regularisation that finds what to prune."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from autoprune.training.methods.finding import FindingUnits
from autoprune.training.methods.greg1 import grown, smoothed_ratio
from autoprune.training.methods.method import Plan, Pruning, Step

ENOUGH = 1000.0  # ratio of the mean |w| of kept and pruned units from which a group is pushed no more


class GReg2(FindingUnits):
    """GReg-2: a small penalty that grows on all units tells them apart, then one that grows on the lowest (Wang 2021).

    First lambda of all units grows, in `picking` of the steps, to 1e-2: weights that the loss holds on to resist. Then
    the units of smallest mean |w| are chosen, by one threshold through all of them, relative to their group's mean,
    that holds the budgets (the paper is given each layer's share). From then on every `every` steps lambda of the
    chosen grows by `growth`, and that of the others is -growth (https://arxiv.org/abs/2012.09243, with the constants of
    its code). A group stops at its own smoothed ratio of 1000, or when its lambda exceeds `ceiling`; the
    last twelfth holds. A group of which nothing goes is left alone from then on. The filters of all members of a unit
    are pushed, where the paper has one convolution.

    Args:
        growth: Of the second lambda, each time (published: 1e-4); None: what reaches the ceiling in time.
        every: Steps between (published: 10 on CIFAR).
        ceiling: Of the second lambda.
        highest: Of the first lambda.
        picking: Share of the steps in which it grows (published: 10k of 120k).
    """

    name: ClassVar[str] = "greg2"
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"every": (1, math.inf), "picking": (0, 0.5)}
    strengths: ClassVar[tuple[str, ...]] = ("growth", "ceiling", "highest")
    REMEMBERED: ClassVar[tuple[str, ...]] = ("strength", "ratios")
    NOTHING: ClassVar[Mapping[str, float]] = {"growth": 0.0, "highest": 0.0}

    def __init__(
        self, pruning: Pruning | None = None, *, growth: float | None = None, every: int = 10, ceiling: float = 1.0,
        highest: float = 1e-2, picking: float = 1 / 12,
    ) -> None:  # fmt: skip
        super().__init__(pruning)
        self.growth, self.every, self.ceiling, self.highest, self.picking = growth, every, ceiling, highest, picking

    def begin(self, net: nn.Module, plan: Plan) -> None:
        """See `FindingUnits`."""
        super().begin(net, plan)
        updates = max(1, round(self.picking * self.steps / self.every))
        self.first = self.highest / updates
        self.pick = updates * self.every  # the step in which units are chosen
        self.hold = self.steps - max(1, round(self.steps / 12))
        self.delta = self.ceiling * self.every / max(1, self.hold - self.pick) if self.growth is None else self.growth
        self.strength = [torch.zeros(units.size) for units in self.units]  # lambda, per group [C]
        self.ratios: list[float] = []

    def least(self) -> int:
        """An update of each kind, and a step to hold."""
        return 3 * self.every

    def push(self, step: int) -> tuple[float, ...]:
        """See `Method`: of the chosen, as long as no ratio stops it, and of the others."""
        if step < self.pick or not self.delta:
            first = self.first * (1 + min(step, self.pick - 1) // self.every)
            return first, first
        updates = 1 + (min(step, self.hold - 1) - self.pick) // self.every
        return self.highest + grown(self.delta, updates, self.ceiling - self.highest), -self.delta

    def after_backward(self, net: nn.Module, step: Step) -> float:
        """Let lambda grow, choose when it is time, and push."""
        if step.number == self.pick:
            self.pruned = self.ranked(self.sizes(), "mean")
        if step.number % self.every == 0 and step.number < self.hold:
            if step.number < self.pick:
                pairs = zip(self.strength, self.units, strict=True)
                self.strength = [s + self.first * (units in self.prunable) for s, units in pairs]
            elif self.delta:
                self._grow(restart=step.number == self.pick)
        for units, strength in zip(self.units, self.strength, strict=True):
            units.push_(strength)
        return 0.0

    @torch.no_grad()
    def sizes(self) -> list[Tensor]:
        """Per group [C] the mean |w| of the filters of each unit."""
        return [units.rows().abs().mean(1).cpu() for units in self.units]

    def _grow(self, restart: bool) -> None:
        self.ratios = smoothed_ratio([] if restart else self.ratios, self.sizes(), self.pruned)
        for i, (pruned, ratio) in enumerate(zip(self.pruned, self.ratios, strict=True)):
            strength = self.strength[i]
            stopped = ratio >= ENOUGH or bool((strength[pruned] > self.ceiling).any())
            others = -self.delta if pruned.any() else 0.0  # layers of which nothing goes are untouched
            self.strength[i] = torch.where(pruned, strength if stopped else strength + self.delta, others)
