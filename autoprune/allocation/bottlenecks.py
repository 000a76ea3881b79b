"""Networks without bottlenecks: no group at less than a twentieth of its units."""

from __future__ import annotations

from dataclasses import replace

from autoprune.problem import Problem
from objectives import InfeasibleBudget
from search_spaces import ChannelGroup

LEAST = 0.05  # of a group


def without_bottlenecks(problem: Problem) -> Problem | None:
    """The same problem with no group below a twentieth of its units; None where nothing changes, or no budget holds.

    A branch that may vanish still may: it is gone, or has no bottleneck.

    A bottleneck of one unit is a kind of its own: losses without training take it for better than it is (least squares
    bridge it, SGD from the weights as cut does not), though where there are many blocks to spare it is the best one
    (results/benchmarks/quality.md).
    """
    groups = tuple(map(_widened, problem.space.groups))
    if all(new.choices() == old.choices() for new, old in zip(groups, problem.space.groups, strict=True)):
        return None
    broad = replace(problem, space=replace(problem.space, groups=groups))
    try:
        _ = broad.feasibility
    except InfeasibleBudget:
        return None
    return broad


def _widened(group: ChannelGroup) -> ChannelGroup:
    least = next((w for w in group.choices() if w >= LEAST * group.size), group.size)
    return replace(group, narrowest=least) if group.floor == 0 else replace(group, floor=least)
