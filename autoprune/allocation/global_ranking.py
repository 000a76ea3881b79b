"""One threshold through all the scores."""

from __future__ import annotations

import numpy as np

from autoprune.problem import Problem
from search_spaces import Widths
from search_spaces.encodings import Ranking, normalised


def global_ranking(problem: Problem) -> Widths:
    """The units with the lowest scores of the whole network go until the budgets hold.

    Scores are divided by the mean of their group: raw norms of different layers do not compare, and leave some layers
    empty. It is layer compensation with scale 1 and shift 0.
    """
    ones = np.ones(len(problem.space.groups))
    ranking = Ranking(problem.space, normalised(problem.scores))
    return problem.project(ranking.cut(ones, 0 * ones, problem.feasibility.fits))
