"""Network slimming."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import nn

from autoprune.training.methods.finding import FindingUnits
from autoprune.training.methods.method import Plan, Pruning, Step

# Strength times learning rate, summed over the epochs: 80 at 0.1, 40 at 0.01 and 40 at 0.001.
PUBLISHED = 1e-4 * 8.44


class Slimming(FindingUnits):
    """Network Slimming: an L1 penalty on batch-norm scales, then one threshold through all of them (Liu et al. 2017).

    grad(gamma) += strength * sign(gamma) after the backward pass (https://arxiv.org/abs/1708.06519, the
    subgradient of its eq. 1). In the end the lowest |gamma| of the whole network go until every budget holds; the paper
    gives the share of channels instead, and lets layers vanish. Coupled batch-norms are summed. Groups without
    batch-norm are pruned last. The paper begins with scales of 0.5; here they begin as they are (ours).

    Args:
        strength: Of the penalty (published: 1e-4 for VGG, 1e-5 for ResNet-164, over 160 epochs); None: what moves a
            scale as far as the former at the rates of this phase's steps, at most 1e-2 (ours).
    """

    name: ClassVar[str] = "slimming"
    reads_scales: ClassVar[bool] = True
    strengths: ClassVar[tuple[str, ...]] = ("strength",)
    NOTHING: ClassVar[Mapping[str, float]] = {"strength": 0.0}

    def __init__(self, pruning: Pruning | None = None, *, strength: float | None = None) -> None:
        super().__init__(pruning)
        self.strength = strength

    def begin(self, net: nn.Module, plan: Plan) -> None:
        """See `FindingUnits`."""
        super().begin(net, plan)
        self.check_scales()
        scaled = min(1e-2, PUBLISHED * plan.per_epoch / self.reach(plan))
        self.weight = scaled if self.strength is None else self.strength

    def after_backward(self, net: nn.Module, step: Step) -> float:
        """Push the scales towards zero."""
        for units in self.prunable:
            units.push_evenly_(self.weight)
        return 0.0

    def leave(self) -> None:
        """One threshold."""
        self.pruned = self.ranked(self.scales())
        super().leave()
