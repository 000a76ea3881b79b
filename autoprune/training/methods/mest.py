"""Memory-economic sparse training, by channels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from autoprune.training.methods.finding import FindingUnits
from autoprune.training.methods.method import Plan, Pruning, Step
from autoprune.training.regrowth import noise
from autoprune.training.units import ALL, Units, lowest

STAGES = ((90 / 160, 1.0), (120 / 160, 0.5), (1.0, 0.0))  # until this share of the phase, this much of `bound`


class Mest(FindingUnits):
    """MEST: sparse from the first step; units are cut to the budgets and others grow at random, fewer and fewer.

    Elastic mutation with a soft bound (https://arxiv.org/abs/2110.14032, with the bounds of its code): at regular
    times the units of lowest norm go until the budgets hold, and others, drawn uniformly, grow from zero: 1.5 times as
    many as stay until 90 of 160 epochs, 1.25 times until 120, then none. The release has no scheme for channels; here
    what is masked are the filters of all members of a unit, and how many stay in each group is the same share of all
    (ours). Normalisations are left until the last choice, so that what grows has a gradient; then all of the unit goes.

    Args:
        bound: How many grow at first, for each that stays (published: 0.5 at 90 % sparsity).
        times: Mutations in the phase (published: every 5th of 160 epochs).
    """

    name: ClassVar[str] = "mest"
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"times": (1, math.inf)}

    def __init__(self, pruning: Pruning | None = None, *, bound: float = 0.5, times: int = 32) -> None:
        super().__init__(pruning)
        self.bound, self.times = bound, times

    def begin(self, net: nn.Module, plan: Plan) -> None:
        """See `FindingUnits`."""
        super().begin(net, plan)
        self.widths = self.problem.project(self.space.full)
        self.every = max(1, plan.steps // self.times)
        self.last = round(STAGES[-2][0] * plan.steps)  # step of the last choice
        self._mutate(0)
        self._hold(0)

    def least(self) -> int:
        """Four mutations."""
        return 4

    def after_step(self, net: nn.Module, step: Step) -> None:
        """Mutate when it is time; what is out stays out."""
        now = step.number + 1
        if now <= self.last and (now % self.every == 0 or now == self.last):
            self._mutate(now)
        self._hold(now)
        super().after_step(net, step)

    def after_backward(self, net: nn.Module, step: Step) -> float:
        """What is out gets no gradient, so that nothing waits in a momentum for it to grow."""
        for units, gone in zip(self.units, self.pruned, strict=True):
            units.let_no_gradient_(gone)
        return 0.0

    def _hold(self, now: int) -> None:
        """What is out stays out."""
        for units, gone in zip(self.units, self.pruned, strict=True):
            units.scale_((~gone).float(), ("filter",)) if now < self.last else units.zero_(gone)

    @torch.no_grad()
    def _mutate(self, step: int) -> None:
        more = 0.0 if step >= self.last else next(f for until, f in STAGES if step < until * self.steps)
        self.pruned = tuple(
            self._mutated(units, width, more, [self.seed, step, i])
            for i, (units, width) in enumerate(zip(self.units, self.widths, strict=True))
        )

    def _mutated(self, units: Units, width: int, more: float, seed: list[int]) -> Tensor:
        """[C] what is out then: of all but the largest, as many grow as the bound lets, from zero."""
        out = lowest(units.norms().cpu(), units.size - width)
        units.scale_((~out).float(), ("filter",))  # also of those that grow again at once
        count = min(int(out.sum()), round(self.bound * more * width))
        # What is out has no norm; what reads it, or else its biases, tell units apart wherever they stand.
        drawn = noise(units.rows(*(("reader",) if units.of("reader") else ALL)).norm(dim=1).cpu(), seed)
        return out & lowest(torch.where(out, drawn, -torch.inf), units.size - count)

    def gone(self) -> tuple[Tensor, ...]:
        """See `Method`: all that is out, after the last choice."""
        return self.pruned if self.done >= self.last else tuple(torch.zeros_like(p) for p in self.pruned)
