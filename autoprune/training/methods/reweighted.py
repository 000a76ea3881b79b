"""Reweighted group lasso."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from autoprune.training.methods.finding import FindingUnits
from autoprune.training.methods.method import Plan, Pruning, Step
from autoprune.training.units import Units

MOMENTUM = 10.0  # steps that one counts for, at a momentum of 0.9


class Reweighted(FindingUnits):
    """Unified dynamic regularisation: every unit's penalty is weighted anew by its last norm (Zhang et al. 2021).

    Loss: strength * sum over units of alpha |w|^2 / M, with alpha = 1 / (|w|^2 / m + epsilon) of the network that the
    last round ended with, where m is the group's mean |w|^2 in the beginning and M the mean of all m: so one strength
    brings units of the same |w|^2 / m to zero in the same time, in all groups (https://arxiv.org/abs/2004.05531). All
    that its constants are is ours. In the end one threshold through the norms, relative to their group's mean, holds
    the budgets. The filters of all members of a unit are one vector.

    Args:
        strength: Of the loss; None: what would bring to zero in half of the phase, were there no other loss and were
            the weights taken all the time, the largest unit that such a threshold takes in the beginning.
        rounds: How often the weights are taken, the beginning included.
        epsilon: Keeps a weight finite; with no strength given, so large at least that no step takes a unit beyond zero.
    """

    name: ClassVar[str] = "reweighted"
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"rounds": (1, math.inf)}
    strengths: ClassVar[tuple[str, ...]] = ("strength",)
    REMEMBERED: ClassVar[tuple[str, ...]] = ("alphas", "means", "share")
    NOTHING: ClassVar[Mapping[str, float]] = {"strength": 0.0}

    def __init__(
        self, pruning: Pruning | None = None, *, strength: float | None = None, rounds: int = 4, epsilon: float = 1e-3
    ) -> None:
        super().__init__(pruning)
        self.strength, self.rounds, self.epsilon = strength, rounds, epsilon

    def begin(self, net: nn.Module, plan: Plan) -> None:
        """See `FindingUnits`."""
        super().begin(net, plan)
        squares = self._squares(self.prunable)
        self.means = [float(square.mean().clamp(min=1e-30)) for square in squares]
        gone = self.of_prunable(self.ranked(self._squares(self.units), "mean"))
        pairs = zip(squares, gone, self.means, strict=True)
        largest = max(float((s * g.to(s.device)).max()) / m for s, g, m in pairs)  # |w|^2 / m falls by 4 strength / M
        scaled = self.mean * largest / (2 * MOMENTUM * self.reach(plan))
        self.share = scaled if self.strength is None else self.strength
        self.alphas = self._weights()

    @property
    def mean(self) -> float:
        """M."""
        return sum(self.means) / len(self.means)

    def least(self) -> int:
        """A step for each round."""
        return self.rounds

    @torch.no_grad()
    def _squares(self, groups: Iterable[Units]) -> list[Tensor]:
        """Per group [C] |w|^2."""
        return [units.rows().square().sum(1) for units in groups]

    def _weights(self) -> list[Tensor]:
        pairs = zip(self._squares(self.prunable), self.means, strict=True)
        beyond = 2 * self.rate * self.share / self.mean if self.strength is None else 0.0  # zero, less in one step
        return [1 / (square / mean + max(self.epsilon, beyond)) for square, mean in pairs]

    def penalty(self, net: nn.Module, step: Step) -> Tensor | None:
        """See the class."""
        if not self.share:
            return None
        found = [
            (alpha * units.rows().square().sum(1)).sum()
            for units, alpha in zip(self.prunable, self.alphas, strict=True)
        ]
        return self.share / self.mean * torch.stack(found).sum()

    def after_step(self, net: nn.Module, step: Step) -> None:
        """Weigh anew between two rounds."""
        now = step.number + 1
        if now < self.steps and now * self.rounds // self.steps != step.number * self.rounds // self.steps:
            self.alphas = self._weights()
        super().after_step(net, step)

    def leave(self) -> None:
        """One threshold."""
        self.pruned = self.ranked(self._squares(self.units), "mean")
        super().leave()
