"""The most score for the cost."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autoprune.allocation.closing import closings, score_kept
from autoprune.allocation.loads import loads
from autoprune.allocation.shrinking import shrink
from autoprune.problem import Problem
from search_spaces import Widths
from search_spaces.encodings import Floats, normalised

ROUNDS = 24  # four times as many move the widths by 0.4 % on average (50 groups, macs<=10%, measured)


def knapsack(problem: Problem, *, normaliser: str = "none") -> Widths:
    """Units with the least score per cost go, in rounds, until the budgets hold.

    What a unit costs depends on what is left around it, so it is taken at the current widths and anew each round, as in
    Group Fisher (Liu et al. 2021, https://arxiv.org/abs/2108.00708); the excess shrinks along a geometric schedule, as
    in HALP (Shen et al. 2022, https://arxiv.org/abs/2110.10811). The cost is `problem.score_per`; where that says
    nothing, it is what the budgets limit: those that do not hold yet count, each in units of its limit.

    This is the greedy solution, one threshold on score per cost in each of 24 rounds, and not HALP's: there each round
    solves a 0/1 knapsack over all units by dynamic programming, the most score for the round's latency, where a unit
    costs what the latency table says for its rank in its layer (the steps of the staircase included) and is taken only
    after the better ones. Here all units of a group cost the same within a round; what that leaves of the budgets,
    projection fills. `multiple_choice` solves a knapsack by integer programming, over measured losses.

    Args:
        problem: Space, budgets, scores and the cost to divide them by.
        normaliser: What the scores of a group are divided by first, as in `global_ranking`, for criteria whose
            values do not compare across groups (norms do not; Taylor and Fisher do: both are changes of the loss).

    Where branches may vanish, the same is done without one branch, without two ... (the least score for what they free
    first, a branch's whole score against its whole cost); of the answers the one that keeps the most score is given.
    """
    step = np.array([group.divisor for group in problem.space.groups])

    def scale(widths: NDArray[np.int64], left: float) -> Floats:
        here = loads(problem, widths[None])[0]
        # Row g: one step of group g gone. A unit less may cost more, where the device likes multiples.
        fewer = np.maximum(widths - np.diag(step), 0)
        freed = _freed(problem, widths, fewer, here > left) / (1 if problem.score_per == "none" else step)
        most = freed.max()
        return np.asarray(most / np.maximum(freed, 1e-9 * most) if most > 0 else np.ones(len(widths)))  # score per cost

    scores = normalised(problem.scores, normaliser)
    answers = [shrink(problem, scores, scale, ROUNDS, start) for start in closings(problem)]
    return max(answers, key=lambda widths: score_kept(scores, widths)) if len(answers) > 1 else answers[0]


def _freed(problem: Problem, widths: NDArray[np.int64], fewer: NDArray[np.int64], over: NDArray[np.bool_]) -> Floats:
    """[G] the cost that each of the candidates `fewer` [G, G] has less than `widths` [G]."""
    if problem.score_per == "none":
        return np.ones(len(widths))
    if problem.score_per:
        price = problem.feasibility.costs[problem.score_per]
        return np.asarray(price(widths[None].astype(np.float64)) - price(fewer.astype(np.float64)))
    return np.asarray((loads(problem, widths[None]) - loads(problem, fewer))[:, over].sum(axis=1))
