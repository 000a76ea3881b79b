"""Magnitudes that compare across layers."""

from __future__ import annotations

import torch
from torch import Tensor

from autoprune.criteria.criterion import Criterion
from autoprune.criteria.tensors import GroupTensors


class Lamp(Criterion):
    """Layer-adaptive magnitude (LAMP, Lee et al. 2021, https://arxiv.org/abs/2010.07611, eq. 4), for filters.

    The squared norm of the unit's filter over the sum of those that are at least as large in its group, itself
    included. The paper scores single weights; a unit's weights, coupled filters together, stand for one here. The order
    within a group is that of the norms; the largest unit of every group is worth 1 (two as large share it), so that no
    group is emptied.
    """

    name = "lamp"
    degree = 0

    def score(self, group: GroupTensors) -> Tensor:
        """[C] shares between 0 and 1."""
        norms = group.total([p.value.double().square().sum(1) for p in group.filters]).double()
        ascending = norms.sort().values
        rest = ascending.flip(0).cumsum(0).flip(0)  # the sum from here to the largest
        at_least = rest[torch.searchsorted(ascending, norms)]
        return (norms / at_least).nan_to_num(0)  # 0 / 0: all weights are zero
