"""How clearly a filter stands for its neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from autoprune.criteria.affinity import departures, exemplars
from autoprune.criteria.criterion import Criterion
from autoprune.criteria.tensors import GroupTensors


class Exemplar(Criterion):
    """Margin r(k,k) + a(k,k) of affinity propagation (EPruner, Lin et al. 2021, https://arxiv.org/abs/2101.07985).

    EPruner keeps the units with a positive margin; as a score the margin orders all units, and the allocation chooses
    how many stay. It depends on the preference: here the one that makes about half of the group exemplars. The least
    margin is taken off, so that scores start at 0. Coupled filters: laid end to end before the distance is taken.
    """

    name = "exemplar"
    degree = 2

    def score(self, group: GroupTensors) -> Tensor:
        """[C] margins above the least one."""
        if not group.parts:
            return group.total([])
        points = torch.cat([p.value for p in group.filters], dim=1).double().cpu()
        distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").square().numpy()
        margins = exemplars(distances, departures(distances)[len(points) // 2])[1]
        return torch.from_numpy(margins - margins.min())
