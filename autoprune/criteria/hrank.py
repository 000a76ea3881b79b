"""How much a feature map tells, by its rank."""

from __future__ import annotations

from torch import Tensor

from autoprune.criteria.criterion import Criterion
from autoprune.criteria.tensors import GroupTensors


class HRank(Criterion):
    """Average rank of the unit's feature maps (HRank, Lin et al. 2020, https://arxiv.org/abs/2002.10179).

    Score_c = mean over samples of rank(A_c), A_c [H, W], in what the readers see; several readers: averaged. The
    rank hardly depends on the samples, so a bounded number is looked at (`activations.RANKED`). Numbers without rows
    and columns (1x1 maps, what linear layers read) are 1x1 matrices of rank one where they are not zero: there the
    score is the share of activations that are not zero, as for `apoz`.
    """

    name = "hrank"
    needs = frozenset({"ranks"})
    degree = 0

    def score(self, group: GroupTensors) -> Tensor:
        """[C] average ranks."""
        return group.seen("ranks")
