"""What the next layer would miss least."""

from __future__ import annotations

import torch
from torch import Tensor

from autoprune.criteria.criterion import Criterion
from autoprune.criteria.tensors import GroupTensors


class ThiNet(Criterion):
    """Place in the order of greedy reconstruction (ThiNet, Luo et al. 2017, https://arxiv.org/abs/1707.06342).

    Removing the units T changes an output of the next layer by the sum of their contributions x_j to it, so T grows by
    the unit that keeps the sum over samples of (sum_{j in T} x_j)^2 smallest (eq. 6, algorithm 1). With G = sum over
    samples of x x', the change by unit i is G_ii + 2 sum_{j in T} G_ij: all C steps together take C^2 operations.
    Several readers: their G are added. The paper's samples are single outputs of each input; `criteria.activations`
    says how one pass samples all of them. The rescaling by least squares is `recovery`'s work.

    The score is the place divided by C, up to 1 (removed last); units that contribute nothing tie at 0. So there is a
    ranking for any number of units; how much worse the next place is gets lost, and across groups only percentiles are
    compared.
    """

    name = "thinet"
    needs = frozenset({"contributions"})
    degree = 0

    def score(self, group: GroupTensors) -> Tensor:
        """[C] places."""
        gram = group.seen("contributions").double()
        change = gram.diagonal().clone()
        places = torch.zeros_like(change)
        for place in range(1, len(gram) + 1):
            unit = int(change.argmin())
            places[unit] = place
            change += 2 * gram[unit]
            change[unit] = torch.inf
        places[gram.diagonal() == 0] = 0
        return places / len(gram)
