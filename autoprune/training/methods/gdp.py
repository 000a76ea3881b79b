"""Global and dynamic pruning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from autoprune.training.gating import Gating
from autoprune.training.methods.finding import FindingUnits
from autoprune.training.methods.method import Plan, Pruning, Step

UPDATES = 10  # of the mask by default
CHANGING = 0.8  # of the phase, in which the mask is updated


class Gdp(FindingUnits):
    """GDP: one global mask over all units, chosen anew in fixed intervals, so that units come again (Lin et al. 2018).

    The saliency of a unit is the first-order Taylor term of its mask, |sum of x dL/dx| over what reads it and the
    samples of a step, added up over the interval; closed units have one, too. One threshold through those of the whole
    network holds the budgets: what is above it is open in the next interval
    (https://www.ijcai.org/proceedings/2018/336). The mask sits where a unit is read, not on its filter, where a
    batch-norm behind it would undo it, so what is closed keeps its weights, but for weight decay, until it opens again;
    everything is open in the first interval, and the last fifth of the phase trains with the last mask (ours).

    Args:
        every: Steps between two updates; 0: ten of them in four fifths of the phase (ours; the paper names none).
    """

    name: ClassVar[str] = "gdp"
    by_samples = True
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"every": (0, math.inf)}
    REMEMBERED: ClassVar[tuple[str, ...]] = ("sums",)

    def __init__(self, pruning: Pruning | None = None, *, every: int = 0) -> None:
        super().__init__(pruning)
        self.every = every

    def begin(self, net: nn.Module, plan: Plan) -> None:
        """See `FindingUnits`."""
        super().begin(net, plan)
        self.sums = [torch.zeros(u.size) for u in self.units]
        self.period = self.every or max(1, int(CHANGING * plan.steps / UPDATES))
        self._open()
        over = self.problem.feasibility.violation(self.space.full)
        self.gating = Gating(net, self.space, lambda number, values: self.masks[number]) if over else None

    def least(self) -> int:
        """An interval, and a step with its mask."""
        return self.every + 1 if self.every else 2

    def _open(self) -> None:
        """The masks [C] of each group, by what is pruned now."""
        self.masks = [
            (~gone).float().to(units.device).requires_grad_()
            for gone, units in zip(self.pruned, self.units, strict=True)
        ]

    def after_backward(self, net: nn.Module, step: Step) -> float:
        """Add up."""
        for total, mask in zip(self.sums, self.masks, strict=True):
            if mask.grad is not None:
                total += mask.grad.abs().cpu()
                mask.grad = None
        return 0.0

    def after_step(self, net: nn.Module, step: Step) -> None:
        """Choose anew when it is time."""
        now = step.number + 1
        if self.gating and now % self.period == 0 and now <= max(self.period, CHANGING * self.steps):
            self.pruned = self.ranked(self.sums)
            self.sums = [torch.zeros_like(s) for s in self.sums]
            self._open()
        super().after_step(net, step)

    def leave(self) -> None:
        """What is closed goes; before the first update, what would be."""
        self.let_go()
        if self.problem.feasibility.violation(self.left()):
            self.pruned = self.ranked(self.sums)
        super().leave()

    def load(self, state: Mapping[str, Any]) -> None:
        """See `Method`."""
        super().load(state)
        self._open()
