"""The scale of the batch-norm that follows."""

from __future__ import annotations

from torch import Tensor

from autoprune.criteria.criterion import Criterion
from autoprune.criteria.tensors import GroupTensors


class BatchNormScale(Criterion):
    """Absolute scale |gamma| of the normalisation layers (Liu et al. 2017, https://arxiv.org/abs/1708.06519).

    Coupled layers: summed, since a channel passes if any of its normalisations lets it through. A group without
    normalisation (a squeeze layer) falls back to the L1 norm of its filters: only the order within the group counts.
    """

    name = "bn_scale"
    degree = 1

    def score(self, group: GroupTensors) -> Tensor:
        """[C] scales."""
        return group.total([p.value.abs().sum(1) for p in group.of("scale") or group.filters])
