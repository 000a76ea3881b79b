"""The norm that started filter pruning."""

from __future__ import annotations

from torch import Tensor

from autoprune.criteria.criterion import Criterion
from autoprune.criteria.tensors import GroupTensors


class L1Norm(Criterion):
    """Sum of absolute filter weights (Li et al. 2017, https://arxiv.org/abs/1608.08710).

    Coupled filters: summed, i.e. the norm of all the weights that make the unit.
    """

    name = "l1"
    degree = 1

    def score(self, group: GroupTensors) -> Tensor:
        """[C] norms."""
        return group.total([p.value.abs().sum(1) for p in group.filters])
