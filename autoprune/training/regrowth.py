"""Units that come again: their last values, and which of them do.

Letters: `C` units of a group, `M` numbers that one unit owns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.training.units import lowest
from search_spaces import SearchSpace


def noise(scores: Tensor, seed: Sequence[int]) -> Tensor:
    """[C] Gumbel noise: score + noise, the highest first, draws without replacement by the softmax of the scores.

    Which unit gets which number follows from the order of the scores, not from where the units stand.
    """
    drawn = np.random.default_rng([abs(s) for s in seed]).gumbel(size=len(scores))
    found = torch.empty(len(scores), dtype=torch.float64)
    found[scores.detach().cpu().argsort(stable=True)] = torch.from_numpy(drawn)
    return found


class Snapshot:
    """The last values of units that have been set to zero since: parameters, statistics, weights that read them.

    Args:
        net: The network.
        space: Its groups.
    """

    def __init__(self, net: nn.Module, space: SearchSpace) -> None:
        named = [*net.named_parameters(remove_duplicate=False), *net.named_buffers(remove_duplicate=False)]
        members = {m.tensor for group in space.groups for m in group.members}
        self.space, self.live = space, {name: t for name, t in named if name in members}
        self.values: dict[str, Tensor] = {}
        self.take()

    def take(self) -> None:
        """Remember what is there now."""
        self.values = {name: t.detach().clone() for name, t in self.live.items()}

    @torch.no_grad()
    def restore_(self, gone: Sequence[Tensor]) -> None:
        """Give the units marked [C] per group what they had."""
        for group, back in zip(self.space.groups, gone, strict=True):
            for member in group.members if back.any() else ():
                if (live := self.live.get(member.tensor)) is not None:
                    rows = torch.from_numpy(member.index)[back].flatten().to(live.device)
                    live.index_copy_(member.axis, rows, self.values[member.tensor].index_select(member.axis, rows))


def leverage(rows: Tensor, count: int) -> Tensor:
    """[C] norms of the units' rows in the first `count` singular vectors; where units outnumber weights, L1 norms."""
    if rows.shape[1] < rows.shape[0]:
        return rows.abs().sum(1)
    vectors = torch.linalg.svd(rows.double(), full_matrices=False).U  # rows are the columns of the paper's matrix
    norms: Tensor = vectors[:, :count].norm(dim=1)
    return norms


def grown(rows: Tensor, kept: Tensor, count: int, seed: list[int]) -> Tensor:
    """[C] the units that grow: drawn without replacement by the softmax of their distance from the span of the kept."""
    count = min(count, int((~kept).sum()))
    if count < 1:
        return torch.zeros_like(kept)
    rows, those = rows.double(), rows[kept].double()
    left = rows - rows @ torch.linalg.pinv(those) @ those  # kept rows may depend on one another
    residual = torch.where(kept, -math.inf, left.norm(dim=1))
    drawn = residual + noise(residual, seed)  # the highest of these are such a draw
    return ~lowest(drawn, len(drawn) - count)
