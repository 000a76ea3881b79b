"""One threshold after another, each through scores as they compare at the widths that the last one has left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoprune.allocation.loads import loads
from autoprune.problem import Problem
from search_spaces import Widths
from search_spaces.encodings import Floats, Ranking

# Widths [G], what the round allows of each budget, as a multiple of its limit -> what scores are multiplied by [G].
ScaleAt = Callable[[NDArray[np.int64], float], Floats]


def shrink(
    problem: Problem, scores: Sequence[NDArray[Any]], scale: ScaleAt, rounds: int, start: Widths | None = None
) -> Widths:
    """The units with the least scaled score go, in rounds along a geometric schedule of the costs, as in HALP.

    HALP: Shen et al. 2022, https://arxiv.org/abs/2110.10811. What rounding leaves of the budgets, projection fills.

    Args:
        problem: Space and budgets.
        scores: Per group [C], higher = keep.
        scale: Makes the scores of groups comparable at given widths.
        rounds: How often the scale is taken anew.
        start: Where it begins, without some branches; default: with all units.
    """
    ranking, groups = Ranking(problem.space, scores), len(problem.space.groups)
    widths = np.array(start or problem.space.full)
    floor = problem.space.standing.floor
    excess = float(loads(problem, widths[None]).max(initial=1.0))
    for left in excess ** (1 - np.arange(1, rounds + 1) / rounds):  # dense ... 1 = within every budget
        if (loads(problem, widths[None])[0] <= left).all():
            continue
        now = widths

        def fits(table: NDArray[np.int64], now: NDArray[np.int64] = now, left: float = left) -> NDArray[np.bool_]:
            smaller = np.minimum(table, now)  # what went stays away
            inside = (loads(problem, smaller) <= left).all(axis=1)
            return np.asarray(inside | (smaller == np.minimum(floor, now)).all(axis=1))

        widths = np.minimum(widths, ranking.cut(scale(widths, left), np.zeros(groups), fits))
    return problem.project(tuple(int(w) for w in widths))
