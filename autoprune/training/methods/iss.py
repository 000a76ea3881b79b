"""Iterative soft shrinkage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from autoprune.training.methods.given import GivenUnits
from autoprune.training.methods.method import Pruning, Step
from autoprune.training.units import lowest


class Iss(GivenUnits):
    """ISS-P: after every step the least important weights shrink by a factor (Wang et al. 2023).

    https://arxiv.org/abs/2303.09650: W[P] <- 0.95 W[P] after every optimiser step, P picked anew each time by L1. The
    paper shrinks single weights; here it is the filters of all members of a unit, P by the L1 norm of them all, as many
    as the plan says. With a factor of 0 it is iterative hard thresholding.

    Args:
        factor: What they are multiplied by, each step; 1: nothing.
    """

    name: ClassVar[str] = "iss"
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"factor": (0, 1)}

    def __init__(self, pruning: Pruning | None = None, *, factor: float = 0.95) -> None:
        super().__init__(pruning)
        self.factor = factor

    def after_step(self, net: nn.Module, step: Step) -> None:
        """Pick, and shrink."""
        with torch.no_grad():
            sizes = [units.rows().abs().sum(1) for units in self.units]
        self.pruned = tuple(lowest(size, count) for size, count in zip(sizes, self.counts, strict=True))
        for units, pruned in zip(self.units, self.pruned, strict=True):
            units.scale_(torch.where(pruned, self.factor, 1.0), ("filter",))
        super().after_step(net, step)
