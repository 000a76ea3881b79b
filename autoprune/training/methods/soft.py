"""What soft filter pruning and its kin have in common: units that are set back, and may come again."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import nn

from autoprune.training.methods.given import GivenUnits
from autoprune.training.methods.method import Plan
from autoprune.training.units import lowest


def at_once(share: float) -> float:
    """All of them from the first epoch on."""
    return 1.0


def asymptotic(share: float) -> float:
    """P(t)/P = a e^(-k t/T) + b through (0, 0), (1/8, 3/4) and (1, 1), where t/T = `share` of the training is done.

    The first and the last point give a = -1 / (1 - e^-k) and b = -a, the one between them k, near 8 ln 4.
    """
    rate = 8 * math.log(4)
    for _ in range(50):  # converges to the solution of (1 - e^(-k/8)) / (1 - e^-k) = 3/4
        rate = -8 * math.log(1 - 0.75 * (1 - math.exp(-rate)))
    return (1 - math.exp(-rate * share)) / (1 - math.exp(-rate))


class SoftUnits(GivenUnits):
    """Before the first epoch and after each, the units of lowest norm are multiplied by a factor, and go on training.

    How many is given by the plan, which ones is chosen anew by the Euclidean norm of all the filters that make the unit
    (the papers: of one convolution each). Only filters are set back, as published: not normalisations, gradients or
    momentum, so that a unit can come back.
    """

    def begin(self, net: nn.Module, plan: Plan) -> None:
        """See `Method`."""
        super().begin(net, plan)
        self._set_back(0.0)

    def least(self) -> int:
        """Two epochs: units are set back once and train again."""
        return 2 * self.per_epoch

    @abstractmethod
    def amount(self, share: float) -> float:
        """Of the units to be pruned, how many are set back when this share of the epochs is done."""

    @abstractmethod
    def factor(self, share: float) -> float:
        """What they are multiplied by."""

    def end_epoch(self, net: nn.Module, epoch: int) -> None:
        """Set the lowest back."""
        if self.done < self.steps:
            self._set_back(self.done / self.steps)

    def leave(self) -> None:
        """The last choice, for good."""
        self.pruned = tuple(lowest(u.norms(), count) for u, count in zip(self.units, self.counts, strict=True))
        super().leave()

    def _set_back(self, share: float) -> None:
        factor = self.factor(share)
        for units, count in zip(self.units, self.counts, strict=True):
            low = lowest(units.norms(), min(count, round(count * self.amount(share))))
            units.scale_(torch.where(low, factor, 1.0), ("filter",))
