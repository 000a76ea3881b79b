"""Second-order guess of the loss when a unit goes, by the Fisher information of its mask."""

from __future__ import annotations

from torch import Tensor

from autoprune.criteria.criterion import Criterion
from autoprune.criteria.tensors import GroupTensors


class GroupFisher(Criterion):
    """Sum over samples of the squared gradient of the unit's mask (Liu et al. 2021, https://arxiv.org/abs/2108.00708).

    Coupled layers share the mask: per sample the gradients of all that read the unit are summed, *then* squared, then
    summed over the samples (eq. 6-8). Mask gradients come from `criteria.gradients` (units that a bare parameter reads
    have one row per batch, see there). The paper divides by the MACs or
    the memory that the unit frees; here that is the allocation's work (`allocation.knapsack`).
    """

    name = "group_fisher"
    needs = frozenset({"sample_gradients"})
    degree = 0

    def score(self, group: GroupTensors) -> Tensor:
        """[C] Fisher information.

        Raises:
            ValueError: If the mask gradients were not gathered.
        """
        if group.mask_gradients is None:
            raise ValueError(f"group '{group.name}': mask gradients were not gathered; give batches to score_all")
        return group.mask_gradients.double().square().sum(0)
