"""Second-order guess of the loss when a filter's weights go one by one."""

from __future__ import annotations

from torch import Tensor

from autoprune.criteria.criterion import Criterion
from autoprune.criteria.tensors import GroupTensors


class OptimalBrainDamage(Criterion):
    """Sum of 1/2 h w^2 over the filter's weights: optimal brain damage, channel-wise and without the Hessian.

    LeCun et al. 1990 (https://papers.nips.cc/paper/250-optimal-brain-damage) for weights; per channel as C-OBD in Wang
    et al. 2019 (EigenDamage, https://arxiv.org/abs/1905.05934). The diagonal h is that of the empirical Fisher matrix,
    estimated from the mean gradient g over all N samples as N g^2: the expectation is the same where the samples'
    gradients average to zero, as they do at the minimum that training ends in. One weight's estimate is noisy; a filter
    sums over hundreds. N / 2 is the same for all units and left out. Coupled filters: summed.

    `orthoreg` squares the filter's sum of g*w instead, so that its weights' contributions may cancel; `group_fisher` is
    the Fisher information of one mask on the whole unit, from the samples' own gradients.
    """

    name = "obd"
    needs = frozenset({"gradients"})
    degree = 2

    def score(self, group: GroupTensors) -> Tensor:
        """[C] sums of (g*w)^2."""
        return group.total([(p.value.double() * p.gradient.double()).square().sum(1) for p in group.filters])
