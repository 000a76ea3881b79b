"""First-order guess of the loss when a filter goes, before its normalisation."""

from __future__ import annotations

from torch import Tensor

from autoprune.criteria.criterion import Criterion
from autoprune.criteria.tensors import GroupTensors


class OrthoReg(Criterion):
    """(sum of g*w)^2 over the filter's weights (OrthoReg, Lubana et al. 2020, https://arxiv.org/abs/2009.05014).

    `g` is the mean gradient over all samples (the authors: 10,000). It differs from `taylor` where a normalisation
    follows: `taylor` sums over its scale and shift, a mask behind it that silences the unit; this one over the filter
    alone, a mask before it that leaves the shift (and the bias) in place. Without normalisation and bias they are the
    same. Coupled filters: one structure, so summed before squaring.
    """

    name = "orthoreg"
    needs = frozenset({"gradients"})
    degree = 2

    def score(self, group: GroupTensors) -> Tensor:
        """[C] squared joint contributions."""
        return group.total([(p.value.double() * p.gradient.double()).sum(1) for p in group.filters]).square()
