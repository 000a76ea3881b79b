"""Trainability preserving pruning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from autoprune.criteria.tensors import Part
from autoprune.training.methods.acting import STABILISE
from autoprune.training.methods.given import GivenUnits
from autoprune.training.methods.method import Plan, Pruning, Step

WEIGHT, RATE = 1000.0, 1e-3  # of the loss, times lambda, as published; and the learning rate there
PUSHED = ("filter", "bias", "scale", "shift")


class Tpp(GivenUnits):
    """TPP: pruned filters are decorrelated from kept ones while an L2 push on them grows (Wang & Fu 2023).

    Loss: `weight` * lambda * sum over layers of the mean over n^2 entries of (W W' - T)^2, where T is W W' without
    gradient and with the rows and columns of the pruned units at zero (https://arxiv.org/abs/2207.12534, with the
    constants of its code). Push: grad += lambda * theta on weights, biases, scales and shifts of the pruned units.
    lambda = `growth` * (steps // `every`), at most `ceiling`. In the last eleventh the groups are set to zero one after
    the other. The paper has one convolution and the batch-norm behind it; here W W' is taken of each layer that makes
    the group, and all its normalisations are pushed.

    Args:
        growth: Of lambda, each time (published: 1e-4); None: what reaches the ceiling when the last eleventh begins.
        every: Steps between (published: 10 on CIFAR, 5 on ImageNet).
        ceiling: Of lambda.
        weight: Of the loss, times lambda; None: 1000 at the published learning rate of 1e-3, and at others what makes
            the same steps (ours: 1000 diverges at 0.05).
    """

    name: ClassVar[str] = "tpp"
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"every": (1, math.inf)}
    strengths: ClassVar[tuple[str, ...]] = ("weight", "growth", "ceiling")

    def __init__(
        self, pruning: Pruning | None = None, *, growth: float | None = None, every: int = 10, ceiling: float = 1.0,
        weight: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(pruning)
        self.growth, self.every, self.ceiling, self.weight = growth, every, ceiling, weight

    def begin(self, net: nn.Module, plan: Plan) -> None:
        """See `Method`."""
        super().begin(net, plan)
        self.growing = self.steps - max(len(self.units), round(STABILISE * self.steps))
        self.delta = self.ceiling * self.every / self.growing if self.growth is None else self.growth
        self.scale = WEIGHT * RATE / self.rate if self.weight is None else self.weight

    def least(self) -> int:
        """Two updates, and a step for each group to be set to zero."""
        return 2 * self.every + len(self.units)

    def strength(self, step: int) -> float:
        """Lambda in a step."""
        return min(self.ceiling, self.delta * (step // self.every))

    def push(self, step: int) -> tuple[float, ...]:
        """See `Method`."""
        return (self.strength(step),)

    def penalty(self, net: nn.Module, step: Step) -> Tensor | None:
        """Weight * lambda * the sum over the layers; None while lambda is 0."""
        if not (strength := self.strength(step.number)):
            return None
        pairs = [(units, p) for units, p in zip(self.units, self.pruned, strict=True) if p.any()]
        found = [_correlation(part, p.to(units.device)) for units, p in pairs for part in units.filters]
        return self.scale * strength * torch.stack(found).sum() if found else None

    def after_backward(self, net: nn.Module, step: Step) -> float:
        """Push."""
        for units, pruned in zip(self.units, self.pruned, strict=True):
            units.push_(self.strength(step.number) * pruned, PUSHED)
        return 0.0

    def after_step(self, net: nn.Module, step: Step) -> None:
        """Keep at zero what is at zero by now."""
        super().after_step(net, step)
        for units, gone in zip(self.units, self.gone(), strict=True):
            units.zero_(gone)

    def gone(self) -> tuple[Tensor, ...]:
        """See `GivenUnits`: the first group an L-th of the last eleventh after it begins, all when it ends."""
        reached = (self.done - self.growing) * len(self.units) // (self.steps - self.growing)
        count = len(self.units) if self.done >= self.steps else reached if self.delta else 0
        return tuple(p if number < count else torch.zeros_like(p) for number, p in enumerate(self.pruned))


def _correlation(part: Part, pruned: Tensor) -> Tensor:
    """The mean over n^2 entries of (W W' - T)^2, of a layer's n rows, where units [C] are pruned."""
    gram, pruned = part.rows @ part.rows.T, pruned.repeat_interleave(part.index.shape[1])
    touched = pruned[:, None] | pruned  # [n, n] where a pruned unit is part
    return torch.where(touched, gram, 0).square().sum() / gram.numel()
