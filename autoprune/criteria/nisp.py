"""What the final responses owe to a unit."""

from __future__ import annotations

from torch import Tensor

from autoprune.criteria.criterion import Criterion
from autoprune.criteria.tensors import GroupTensors


class Nisp(Criterion):
    """Importance of the final responses, propagated backwards (NISP, Yu et al. 2018, https://arxiv.org/abs/1711.05908).

    The responses that the last layer reads are ranked by Inf-FS (`criteria.inf_fs`), and s_k = |W_k+1|' s_k+1 carries
    their importance to all units (`criteria.propagation`). Several readers: summed, so a residual stream collects from
    every block that comes after. The paper prunes by the order within each layer; scores have mean 1 in each group.
    """

    name = "nisp"
    needs = frozenset({"importance"})
    degree = 0

    def score(self, group: GroupTensors) -> Tensor:
        """[C] importance, mean 1; zeros where no path leads to the final responses."""
        importance = group.seen("importance").double()
        mean = importance.mean()
        return importance / mean if mean > 0 else importance
