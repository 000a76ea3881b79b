"""The base metric of LeGR."""

from __future__ import annotations

from torch import Tensor

from autoprune.criteria.criterion import Criterion
from autoprune.criteria.tensors import GroupTensors


class L2Norm(Criterion):
    """Sum of squared filter weights, not divided by the fan-in (Chin et al. 2020, https://arxiv.org/abs/1904.12368).

    It orders the units of a group as the Euclidean norm does. Coupled filters: summed (as LeGR's code does), i.e. the
    squared norm of all the weights that make the unit.
    """

    name = "l2"
    degree = 2

    def score(self, group: GroupTensors) -> Tensor:
        """[C] squared norms."""
        return group.total([p.value.square().sum(1) for p in group.filters])
