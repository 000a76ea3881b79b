"""How loud a unit is."""

from __future__ import annotations

from torch import Tensor

from autoprune.criteria.criterion import Criterion
from autoprune.criteria.tensors import GroupTensors


class MeanActivation(Criterion):
    """Mean activation over all positions (Molchanov et al. 2017, https://arxiv.org/abs/1611.06440, section 2.2).

    Theta_c = mean |A_c|, in what the readers see; several readers: averaged. The paper's mean is taken after ReLU,
    where the absolute value changes nothing; before one, a unit that answers with negative numbers is not silent.
    """

    name = "mean_activation"
    needs = frozenset({"means"})
    degree = 0
    activation_degree = 1

    def score(self, group: GroupTensors) -> Tensor:
        """[C] means."""
        return group.seen("means")
