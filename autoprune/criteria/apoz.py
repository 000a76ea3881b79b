"""How often a unit is silent."""

from __future__ import annotations

from torch import Tensor

from autoprune.criteria.criterion import Criterion
from autoprune.criteria.tensors import GroupTensors


class Apoz(Criterion):
    """One minus the average percentage of zeros (APoZ, Hu et al. 2016, https://arxiv.org/abs/1607.03250).

    APoZ_c = share of zeros among the activations A_c over samples and positions (eq. 1), taken after the activation
    function: in what the readers see. Several readers: averaged. It needs ReLU-like activations; where nothing is ever
    zero (GELU, a residual stream that is read before its ReLU), all units tie and the lower index stays.
    """

    name = "apoz"
    needs = frozenset({"zeros"})
    degree = 0

    def score(self, group: GroupTensors) -> Tensor:
        """[C] shares of activations that are not zero."""
        return 1 - group.seen("zeros")
