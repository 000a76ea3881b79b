"""Redundancy rather than size: the filters nearest to all the others go first."""

from __future__ import annotations

import torch
from torch import Tensor

from autoprune.criteria.criterion import Criterion
from autoprune.criteria.tensors import GroupTensors


class GeometricMedian(Criterion):
    """Sum of distances to the other filters of the group (FPGM, He et al. 2019, https://arxiv.org/abs/1811.00250).

    The filter that minimises it is the one nearest to the geometric median (eq. 4-6), hence the most replaceable.
    Coupled filters: flattened and laid end to end before the distance is taken.
    """

    name = "geometric_median"
    degree = 1

    def score(self, group: GroupTensors) -> Tensor:
        """[C] sums of distances."""
        if not group.parts:
            return group.total([])
        points = torch.cat([p.value for p in group.filters], dim=1).double()
        points = points - points.mean(0)  # |x|^2 + |y|^2 - 2xy cancels less around the mean
        return torch.cdist(points, points).sum(1)
