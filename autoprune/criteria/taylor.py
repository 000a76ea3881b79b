"""First-order guess of the loss when a unit goes."""

from __future__ import annotations

from torch import Tensor

from autoprune.criteria.criterion import Criterion
from autoprune.criteria.tensors import GroupTensors


class Taylor(Criterion):
    """Squared first-order change of the loss, (sum of g*w)^2 (Molchanov et al. 2019, https://arxiv.org/abs/1906.10771).

    One weight is worth (g*w)^2, a structure the square of its joint sum. The sum runs over scale and shift of the
    normalisation where there is one (the paper's Taylor-FO-BN, its gate), else over filter and bias.
    Coupled layers: one structure, so summed before squaring. `g` is the mean gradient over all samples given.
    """

    name = "taylor"
    needs = frozenset({"gradients"})
    degree = 2

    def score(self, group: GroupTensors) -> Tensor:
        """[C] squared joint contributions."""
        parts = group.of("scale", "shift") or group.of("filter", "bias") or group.parts
        return group.total([(p.value * p.gradient).sum(1) for p in parts]).square()
