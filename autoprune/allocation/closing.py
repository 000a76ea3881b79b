"""Which branches go first: the least score for what they free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoprune.allocation.loads import loads
from autoprune.problem import Problem
from search_spaces import Widths

MOST = 8  # numbers of closed branches that are tried


def score_kept(scores: Sequence[NDArray[Any]], widths: Sequence[int]) -> float:
    """The sum of the best scores of each group [C], as many as `widths` says."""
    return float(sum(np.sort(s)[::-1][:w].sum() for s, w in zip(scores, widths, strict=True)))


def closing_order(problem: Problem) -> tuple[Widths, ...]:
    """The dense network without one branch, without two ...: always the one that loses the least score for its cost.

    A branch's whole score stands against all that it frees of the budgets, each in units of its limit.
    """
    now, found = problem.space.full, [problem.space.full]
    while True:
        others = {problem.space.without(now, branch) for branch in problem.space.branches} - {now}
        if not others:
            return tuple(found)
        table = np.array(sorted(others))
        here = loads(problem, np.array([now]))
        over = here[0] > 1
        freed = (here - loads(problem, table))[:, over if over.any() else slice(None)].sum(axis=1)
        freed = np.ones(len(table)) if not freed.any() else freed
        lost = score_kept(problem.scores, now) - np.array([score_kept(problem.scores, w) for w in table])
        now = tuple(int(w) for w in table[int(np.argmin(lost / np.maximum(freed, 1e-12)))])
        found.append(now)


def closings(problem: Problem) -> tuple[Widths, ...]:
    """Some of `closing_order`, from none closed to all."""
    order = closing_order(problem)
    places = np.unique(np.linspace(0, len(order) - 1, min(MOST, len(order))).round().astype(int))
    return tuple(order[place] for place in places)
