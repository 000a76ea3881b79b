"""Neuron-level polarisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from autoprune.training.methods.finding import FindingUnits
from autoprune.training.methods.method import Plan, Pruning, Step

BINS = 100  # of the histogram of scales
PUBLISHED = 5e-5 * 7.3  # strength times learning rate, summed over the 200 epochs


class Polarization(FindingUnits):
    """Polarization: batch-norm scales are driven to two places, zero and away from it (Zhuang et al. 2020).

    Loss: strength * sum of [t |gamma| - |gamma - mean|], with one mean over all prunable scales of the network, and its
    gradient (https://proceedings.neurips.cc/paper/2020/hash/703957b6dd9e3a7980e040bee50ded65-Abstract.html).
    After each step gamma is clamped to [0, 1], or to the largest there was, so that trained weights survive (ours; the
    paper begins with scales of 0.5).
    What is below the first valley of the histogram of all scales goes; then the widths are brought to the budgets, for
    which the paper tries values of strength and t. Coupled batch-norms are summed where units are ordered.

    Args:
        strength: Of the loss (published: 5e-5 for ResNet-56 and 200 epochs); None: what moves a scale as far at the
            rates of this phase's steps, at most 5e-3 (ours).
        t: Balance of zero and not: a fraction 1/2 - t/4 of the scales stays (published: 1.4 for ResNet-56).
    """

    name: ClassVar[str] = "polarization"
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"t": (0, 2)}
    reads_scales: ClassVar[bool] = True
    strengths: ClassVar[tuple[str, ...]] = ("strength",)
    REMEMBERED: ClassVar[tuple[str, ...]] = ("top",)
    NOTHING: ClassVar[Mapping[str, float]] = {"strength": 0.0}

    def __init__(self, pruning: Pruning | None = None, *, strength: float | None = None, t: float = 1.4) -> None:
        super().__init__(pruning)
        self.strength, self.t = strength, t

    def begin(self, net: nn.Module, plan: Plan) -> None:
        """See `FindingUnits`."""
        super().begin(net, plan)
        self.check_scales()
        self.top = max(1.0, *(float(u.rows("scale").detach().abs().max()) for u in self.prunable if u.of("scale")))
        scaled = min(5e-3, PUBLISHED * plan.per_epoch / self.reach(plan))
        self.weight = scaled if self.strength is None else self.strength

    def penalty(self, net: nn.Module, step: Step) -> Tensor | None:
        """See the class."""
        if not self.weight:
            return None
        gamma = torch.cat([units.rows("scale").flatten() for units in self.prunable])
        return self.weight * (self.t * gamma.abs() - (gamma - gamma.mean()).abs()).sum()

    def after_step(self, net: nn.Module, step: Step) -> None:
        """Clamp the scales."""
        for units in self.prunable if self.weight else ():
            units.clamp_(0.0, self.top, ("scale",))
        super().after_step(net, step)

    def leave(self) -> None:
        """The valley, and the budgets."""
        scores = self.scales()
        pairs = zip(scores, self.units, strict=True)
        there = torch.cat([s for s, units in pairs if units.of("scale") and units in self.prunable])
        top = max(1.0, float(there.max()))
        low = top * valley(there.cpu() / top)
        self.pruned = self.projected([s > low for s in scores], scores)
        super().leave()


def valley(scales: Tensor) -> float:
    """Where the histogram of scales in 0..1 stops falling: the left edge of the bin behind the first such place."""
    counts = torch.histc(scales, BINS, 0, 1)
    rises = (counts[1:] - counts[:-1]).tolist()
    return next((i / BINS for i in range(1, len(rises)) if rises[i - 1] <= 0 <= rises[i]), 0.0)
