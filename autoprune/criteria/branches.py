"""What each branch is worth: how the loss changes where it is replaced by the constant that it leaves.

Letters: `C` units of a group.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from autoprune.compute import Compute
from autoprune.criteria.sites import device_of
from autoprune.tasks import Pairs, Task, evaluated, num_samples, placed
from search_spaces import Dresser, SearchSpace
from search_spaces.branches.branch import Branch

MOST_BATCHES = 4  # of the criterion's: differences between whole branches are large


def branch_losses(
    model: nn.Module,
    space: SearchSpace,
    batches: Iterable[Any],
    task: Task | None = None,
    device: torch.device | None = None,
) -> tuple[float, ...]:
    """The rise of the mean loss without each branch of the space; one pass each, over the first batches.

    Args:
        model: The dense network; left as it is.
        space: Whose branches may vanish.
        batches: Of the task.
        task: How the network is called, and its loss; default: batches are (inputs, class numbers).
        device: Where it runs; default where it is.
    """
    task = task or Pairs()
    compute = Compute(device or device_of(model), amp=False, channels_last=False)
    dresser = Dresser(compute.lent(model), space)
    some = [placed(batch, compute) for batch in islice(batches, MOST_BATCHES)]

    def loss(widths: Sequence[int]) -> float:
        net = dresser.dress([np.arange(w) for w in widths]).eval()
        total = count = 0.0
        with torch.no_grad():
            for batch in some:
                _, found = evaluated(task, net, batch, "calibration")
                size = num_samples(batch)
                total += float(found.sum() if found.dim() else found * size)
                count += size
        return total / max(count, 1)

    dense = loss(space.full)
    return tuple(loss(space.without(space.full, branch)) - dense for branch in space.branches)


def with_branch_losses(
    scores: Sequence[NDArray[np.float64]],
    model: nn.Module,
    space: SearchSpace,
    batches: Iterable[Any] | None,
    task: Task | None = None,
    device: torch.device | None = None,
) -> tuple[NDArray[np.float64], ...]:
    """Scores of units [C] that add up, branch by branch, to what the branch is worth; their order stays.

    A sum of units' scores is blind to what they do together (results/benchmarks/depth.py is to measure it). What
    branches are worth among each other says the loss without each; the unit is that of the scores, whose sum over all
    branches stays.

    Args:
        scores: Per group [C], of a criterion.
        model: The dense network.
        space: Whose branches may vanish.
        batches: See `branch_losses`; None: the scores stay as they are.
        task: Likewise.
        device: Likewise.
    """
    found = [np.asarray(s, dtype=np.float64) for s in scores]
    if batches is None:
        return tuple(found)
    rises = dict(zip(space.branches, branch_losses(model, space, batches, task, device), strict=True))
    outer = [b for b in space.branches if len(b.causes[0]) == 1 and not any(_inside(b, o) for o in space.branches)]
    sums = {b: sum(float(np.abs(found[g]).sum()) for g in b.groups) for b in outer}
    worth = {b: max(rises[b], 0.0) for b in outer if np.isfinite(rises[b])}
    total = sum(worth.values())
    if total <= 0:
        return tuple(found)
    unit = sum(sums[b] for b in worth) / total
    for branch, value in worth.items():
        factor = max(value * unit, 1e-6 * unit * total) / (sums[branch] or 1.0)
        for g in branch.groups:
            found[g] = found[g] * factor
    return tuple(found)


def _inside(branch: Branch, other: Branch) -> bool:
    return len(other.causes[0]) == 1 and set(branch.groups) < set(other.groups)
