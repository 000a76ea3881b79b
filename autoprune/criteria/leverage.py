"""Filters that span what the others cannot."""

from __future__ import annotations

import torch
from torch import Tensor

from autoprune.criteria.criterion import Criterion
from autoprune.criteria.tensors import GroupTensors


class Leverage(Criterion):
    """Leverage scores of column subset selection (CHEX, Hou et al. 2022, https://arxiv.org/abs/2203.15794).

    With the filters as the columns of X = U S V', CHEX keeps the k columns with the largest l_k(j) = |V[j, :k]|^2,
    their share in the best approximation of rank k. How many a group keeps is settled after scoring here, so the score
    is the mean of l_k(j) over k = 1..rank: the sum over i of V[j, i]^2 (rank - i + 1) / rank. Leading directions count
    for every k, trailing ones only where nearly all units stay. (CHEX falls back on the L1 norm for groups with more
    units than weights each; the mean needs no such rule.) Coupled filters: laid end to end.
    """

    name = "leverage"
    degree = 0

    def score(self, group: GroupTensors) -> Tensor:
        """[C] mean leverages between 0 and 1."""
        if not group.parts:
            return group.total([])
        columns = torch.cat([p.value for p in group.filters], dim=1).double()  # [C, M]: X'
        squares, vectors = torch.linalg.eigh(columns @ columns.T)  # squared singular values, rising; V
        # What lies below is rounding error: directions in which no filter points.
        rank = int((squares > squares[-1].clamp(min=0) * len(columns) * torch.finfo(squares.dtype).eps).sum())
        weights = torch.arange(1, rank + 1, dtype=squares.dtype, device=squares.device) / max(rank, 1)
        shares: Tensor = (vectors[:, len(columns) - rank :].square() * weights).sum(1)
        return shares
