"""The norms of all that a unit owns."""

from __future__ import annotations

from torch import Tensor

from autoprune.criteria.criterion import Criterion
from autoprune.criteria.tensors import GroupTensors


class Magnitude(Criterion):
    """Squared norms of what makes a unit, scales it and reads it, the mean over these tensors.

    Torch-Pruning's default (Fang et al. 2023, DepGraph, https://arxiv.org/abs/2301.12900; p = 2): coupled tensors are
    averaged, readers count as filters do. Between groups it needs a normaliser (`allocation.global_ranking`).
    """

    name = "magnitude"
    degree = 2

    def score(self, group: GroupTensors) -> Tensor:
        """[C] mean squared norms."""
        parts = group.of("filter", "scale", "reader") or group.filters
        return group.total([p.value.square().sum(1) for p in parts]) / max(1, len(parts))
