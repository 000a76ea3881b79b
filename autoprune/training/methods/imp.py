"""Iterative magnitude pruning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from autoprune.training.methods.finding import FindingUnits
from autoprune.training.methods.method import Plan, Pruning, Step
from autoprune.training.schedules import starts_of
from objectives import Budget


class Imp(FindingUnits):
    """IMP: in p phases a part of what is left goes at once, and the rest is trained again (Zimmer et al. 2023).

    Each phase takes 1 - (1 - S)^(1/p) of what is left, and then the learning rate goes through its whole schedule, by
    default down in a line, LLR (https://arxiv.org/abs/2111.00843, as in its code; METHODS 2.13). There S is the share
    of single weights; here 1 - S is, for each budget, its limit as a share of what the dense network costs, and the
    units of smallest norm go, by one threshold through all of them relative to their group's mean (ours). What is out
    stays zero, so the last phase trains what is delivered.

    Args:
        phases: p.
    """

    name: ClassVar[str] = "imp"
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"phases": (1, math.inf)}
    NOTHING: ClassVar[Mapping[str, float]] = {"phases": 1}

    def __init__(self, pruning: Pruning | None = None, *, phases: int = 3) -> None:
        super().__init__(pruning)
        self.phases = phases

    def cycles(self) -> int:
        """See `Method`."""
        return self.phases

    def least(self) -> int:
        """Two steps a phase."""
        return 2 * self.phases

    def begin(self, net: nn.Module, plan: Plan) -> None:
        """See `FindingUnits`; the first phase cuts."""
        super().begin(net, plan)
        self.starts = starts_of(plan.steps, self.phases)
        self._cut(0)

    def budgets(self, phase: int) -> tuple[Budget, ...]:
        """What holds in a phase: of a limit of so much of the dense network that much ^ ((phase + 1) / p)."""
        return self.problem.on_the_way((phase + 1) / self.phases).budgets

    @torch.no_grad()
    def _cut(self, phase: int) -> None:
        """What is out stays out, and more goes."""
        norms = self.norms()
        problem = replace(self.problem, budgets=self.budgets(phase)) if phase + 1 < self.phases else self.problem
        self.pruned = tuple(
            new | old.to(new.device) for new, old in zip(self.ranked(norms, "mean", problem), self.pruned, strict=True)
        )
        self.mask()

    def after_step(self, net: nn.Module, step: Step) -> None:
        """Begin the next phase when it is time; what is out stays out."""
        if (now := step.number + 1) in self.starts[1:]:
            self._cut(self.starts.index(now))
        self.mask()
        super().after_step(net, step)

    def gone(self) -> tuple[Tensor, ...]:
        """See `Method`: what is out now."""
        return self.pruned
