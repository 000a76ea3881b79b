"""Group Fisher pruning on its own schedule."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.training.methods.finding import FindingUnits, ranks
from autoprune.training.methods.method import Plan, Pruning, Step
from autoprune.training.step_gradients import StepGradients

PRUNING = 0.8  # of the phase, by the end of which the budgets hold


class Fisher(FindingUnits):
    """Group Fisher: in fixed intervals the unit whose loss costs least per cost that it frees goes (Liu et al. 2021).

    In every step the squared mask gradients of the samples are added up; every `every` steps the unit of the whole
    network with the smallest sum per cost goes, all members at once, and the sums begin anew
    (https://arxiv.org/abs/2108.00708). Costs are those that the budgets limit, as a share of the limit, at
    the widths of that moment; a width goes down to the next legal one. Once the budgets hold, what is left trains on.

    Args:
        every: Steps between (published: 25, until the budget holds); 0: what gets there in four fifths of the phase
            (ours).
    """

    name: ClassVar[str] = "fisher"
    by_samples = True
    REMEMBERED: ClassVar[tuple[str, ...]] = ("sums",)

    def __init__(self, pruning: Pruning | None = None, *, every: int = 0) -> None:
        super().__init__(pruning)
        self.every = every

    def begin(self, net: nn.Module, plan: Plan) -> None:
        """See `FindingUnits`."""
        super().begin(net, plan)
        over = self.problem.feasibility.violation(self.space.full)
        self.masks = StepGradients(net, self.space) if over else None  # else nothing goes: plain training
        self.sums = [torch.zeros(u.size) for u in self.units]
        expected = max(1, sum(self.space.full) - sum(self.problem.project(self.space.full)))
        self.pace = 1 / self.every if self.every else expected / (PRUNING * plan.steps)  # units a step

    def after_backward(self, net: nn.Module, step: Step) -> float:
        """Add up."""
        if self.masks:
            rows = self.masks.result(step.passes)
            self.sums = [s + r.square().sum(0) for s, r in zip(self.sums, rows, strict=True)]
        return 0.0

    def after_step(self, net: nn.Module, step: Step) -> None:
        """Prune when it is time; what is out stays out."""
        now = step.number + 1
        due = int(now * self.pace + 1e-9) - int(step.number * self.pace + 1e-9)
        if now == self.steps or (not self.every and now >= PRUNING * self.steps):
            due = sum(self.space.full)
        pruned = False
        while due > 0 and self.problem.feasibility.violation(self.left()):
            due -= self._prune() or due  # nothing is left to go
            pruned = True
        if pruned:
            self.sums = [torch.zeros_like(s) for s in self.sums]
        self.mask()
        super().after_step(net, step)

    def end(self, net: nn.Module) -> None:
        """No more hooks, also where the training had ended before."""
        if self.masks:
            self.masks.close()

    def _prune(self) -> int:
        """One group goes down to its next legal width; how many units that are."""
        widths, norms, best = self.left(), self.norms(), (np.inf, -1, torch.zeros(0, dtype=torch.long))
        load = self.loads(torch.tensor(widths).double()).sum()
        for i, (group, width) in enumerate(zip(self.space.groups, widths, strict=True)):
            if width <= group.choices()[0]:
                continue
            count = width - max(w for w in group.choices() if w < width)
            sums = torch.where(self.pruned[i], torch.inf, self.sums[i])
            lowest = ranks(sums, norms[i]).argsort()[:count]
            smaller = torch.tensor([w - count * (j == i) for j, w in enumerate(widths)]).double()
            freed = max(float(load - self.loads(smaller).sum()), 1e-12)
            best = min(best, (float(sums[lowest].sum()) / freed, i, lowest), key=lambda found: found[0])
        self.pruned[best[1]][best[2]] = True
        return len(best[2])

    def gone(self) -> tuple[Tensor, ...]:
        """See `Method`: what is out now."""
        return self.pruned
