"""Grow and prune."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from autoprune.training.methods.finding import FindingUnits
from autoprune.training.methods.method import Plan, Pruning, Step
from autoprune.training.units import lowest

PARTS = 4  # as published for ResNet-50


class Gap(FindingUnits):
    """S-GaP: the groups take turns, part by part: one part is dense while it trains, the others are pruned (Ma 2022).

    In cyclic order each part grows to dense and is cut back by magnitude at the end of its turn
    (https://arxiv.org/abs/2106.09857); what grows begins at zero. The paper masks single weights; here it
    is the filters of all members of a unit, and how many stay in each group is the same share of all (ours). After the
    last turn all of the units that are out goes, and a fifth of the phase trains what is left (ours).

    Args:
        parts: Of the groups, in their order, at least 2; 0: 4, as published for ResNet-50, of fewer groups one each.
        rounds: How often each has its turn, of an epoch at least (ours).
    """

    name: ClassVar[str] = "gap"
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"rounds": (1, math.inf)}
    longer: ClassVar[str] = "--method-epochs {} or more, an epoch for each turn of a part; or fewer parts or rounds"

    def __init__(self, pruning: Pruning | None = None, *, parts: int = 0, rounds: int = 1) -> None:
        super().__init__(pruning)
        self.parts, self.rounds = parts, rounds

    def begin(self, net: nn.Module, plan: Plan) -> None:
        """See `FindingUnits`.

        Raises:
            ValueError: As there, or if the groups cannot have so many parts.
        """
        super().begin(net, plan)
        self.widths = self.problem.project(self.space.full)
        self.turns = self.rounds * self.count
        self.last = round(0.8 * plan.steps)  # step in which the last turn has ended
        self._turn(0)
        self._hold(0)

    def least(self) -> int:
        """An epoch a turn, and two steps.

        Raises:
            ValueError: If there cannot be so many parts.
        """
        most = len(self.prunable)
        if self.parts and most and not 2 <= self.parts <= most:
            may, groups = f"2 to {most}, or 0" if most > 1 else "0", f"{most} group{'s' * (most > 1)}"
            raise ValueError(f"method '{self.name}': parts must be {may}, since {groups} of this network may lose "
                             f"units and each part has one or more; got {self.parts}")  # fmt: skip
        self.count = self.parts or min(PARTS, most)
        return max(2, self.per_epoch) * self.rounds * self.count

    def turn(self, step: int) -> int:
        """Which turn a step is in; `turns` when they are over."""
        return min(self.turns, step * self.turns // self.last)

    def after_step(self, net: nn.Module, step: Step) -> None:
        """Change turns when it is time; what is out stays out."""
        now = step.number + 1
        if self.turn(now) != self.turn(step.number):
            self._turn(self.turn(now))
        self._hold(now)
        super().after_step(net, step)

    def _hold(self, now: int) -> None:
        """What is out stays out."""
        for units, gone in zip(self.units, self.pruned, strict=True):
            units.zero_(gone) if now >= self.last else units.scale_((~gone).float(), ("filter",))

    @torch.no_grad()
    def _turn(self, turn: int) -> None:
        """Cut what was dense, let the next part grow."""
        part = turn % self.count if turn < self.turns else -1
        grows = {u.name for i, u in enumerate(self.prunable) if i * self.count // len(self.prunable) == part}
        self.pruned = tuple(
            torch.zeros_like(out) if units.name in grows else self._out(units.norms().cpu(), width)
            for units, width, out in zip(self.units, self.widths, self.pruned, strict=True)
        )

    def _out(self, sizes: Tensor, width: int) -> Tensor:
        return lowest(sizes, len(sizes) - width)

    def gone(self) -> tuple[Tensor, ...]:
        """See `Method`: all that is out, after the last turn."""
        return self.pruned if self.done >= self.last else tuple(torch.zeros_like(p) for p in self.pruned)
