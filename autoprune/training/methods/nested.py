"""Nested sub-networks: one set of weights that serves several budgets."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from torch import nn

from autoprune.recovery import reestimate_evenly
from autoprune.training.methods.distilling import RANDOM, teach
from autoprune.training.methods.method import Method, Plan, Pruning, Step
from search_spaces import Kept, NestedNetwork

BN_SAMPLES = 1000  # re-estimate the batch-norms of each level in the end


class Nested(Method):
    """Hierarchical sub-networks M1 > M2 > ... on shared weights, trained together by the sandwich rule.

    In each step the largest level learns the task; the smallest, and two of those between drawn at random (all, where
    there are no more), learn its answers of that step (see `distilling`; https://arxiv.org/abs/1903.05134). Every level
    has statistics of batch-norm of its own (Yu et al. 2019, https://arxiv.org/abs/1812.08928). Which units a level
    keeps is given: those of highest score, so that each is nested in the larger ones. The published form masks single
    weights and is known by its abstract only (METHODS 2.16): units instead, and this training, are ours.

    What is trained is no longer the dense network but the largest level (see `network`).

    Args:
        scales: Whether each level has scales and shifts of batch-norms of its own, too.
    """

    name: ClassVar[str] = "nested"
    finds: ClassVar[bool] = True
    ordered: ClassVar[bool] = True

    def __init__(self, pruning: Pruning | None = None, *, scales: bool = False) -> None:
        super().__init__(pruning)
        self.scales = scales

    def settings(self) -> dict[str, Any]:
        """See `Method`."""
        return {"scales": self.scales}

    def network(self, net: nn.Module) -> NestedNetwork:
        """See `Method`: the levels of `net`.

        Raises:
            ValueError: If there are no levels, or this network cannot be nested.
        """
        if self.pruning is None or not self.pruning.levels:
            raise ValueError("method 'nested': needs the widths of its levels; e.g. --budget 'macs<=50%' --budget-list "
                             "30%,15%")  # fmt: skip
        order = [np.argsort(-np.asarray(s), kind="stable") for s in self.pruning.scores]
        return NestedNetwork(net, self.pruning.space, order, self.pruning.levels, self.scales)

    def begin(self, net: nn.Module, plan: Plan) -> None:
        """See `Method`.

        Raises:
            ValueError: If it is given a network without levels.
        """
        if not isinstance(net, NestedNetwork):
            raise ValueError("method 'nested': trains a network of several levels; give what its network(net) makes")
        self._plan = plan

    def passes(self, net: nn.Module, step: Step) -> float:
        """The smaller levels' own forward and backward passes."""
        assert isinstance(net, NestedNetwork)
        *between, smallest = net.names[1:] or [""]
        if len(between) > RANDOM:
            rng = np.random.default_rng([self._plan.settings.seed, step.number])
            between = [between[i] for i in sorted(rng.choice(len(between), RANDOM, replace=False))]
        return teach((net.trained_at(level) for level in (*between, smallest) if level), step, self._plan)

    def end(self, net: nn.Module) -> None:
        """The batch-norms of every level are re-estimated."""
        assert isinstance(net, NestedNetwork)
        plan = self._plan
        for level in net.names:
            drawn = plan.task.draw("calibration", BN_SAMPLES, plan.settings.seed)
            reestimate_evenly(net.switch(level).network, plan.task, drawn, plan.batch, plan.compute)
        net.switch(net.names[0])

    def kept(self) -> Kept | None:
        """See `Method`: those of the largest level."""
        if self.pruning is None or not self.pruning.levels:
            return None
        return self.pruning.space.kept(next(iter(self.pruning.levels.values())), self.pruning.scores)
