"""The first candidates of every search."""

from __future__ import annotations

import numpy as np

from autoprune.allocation import global_ranking, knapsack, uniform
from autoprune.problem import Problem
from search_spaces import Widths


def warm_starts(problem: Problem) -> tuple[Widths, ...]:
    """The closed forms, feasible and distinct, to be evaluated and told as trials 0..k-1 whatever the strategy.

    Besides the three of `allocation`, the knapsack over normalised scores and the middle between knapsack and uniform:
    a one-shot score takes the differences between groups for larger than they are.
    """
    even, greedy = uniform(problem), knapsack(problem)
    middle = problem.project(problem.space.clip(np.add(even, greedy) / 2))
    return tuple(dict.fromkeys((even, global_ranking(problem), greedy, knapsack(problem, normalise=True), middle)))
