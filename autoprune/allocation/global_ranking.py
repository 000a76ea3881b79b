"""One threshold through all the scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autoprune.allocation.shrinking import shrink
from autoprune.problem import Problem
from search_spaces import Widths
from search_spaces.encodings import Floats, divisor_of

ROUNDS = 10  # of Torch-Pruning's examples


def global_ranking(problem: Problem, *, normaliser: str = "mean", rounds: int = 1) -> Widths:
    """The units with the lowest scores of the whole network go until the budgets hold.

    Args:
        problem: Space, budgets and scores.
        normaliser: What the scores of a group are divided by first, a name of `search_spaces.encodings.NORMALISERS`:
            raw norms of different layers do not compare, and leave some layers empty. By the mean, in one round, it is
            layer compensation with scale 1 and shift 0.
        rounds: How often it is taken anew, over the units that are left: a group whose weak units have gone is no
            longer one of strong units only. With ten and squared norms this is how Torch-Pruning
            (https://github.com/VainF/Torch-Pruning) prunes globally.
    """
    descending = [np.sort(np.asarray(s, dtype=np.float64))[::-1] for s in problem.scores]

    def scale(widths: NDArray[np.int64], left: float) -> Floats:
        return np.array([1 / divisor_of(s[:w], normaliser) for s, w in zip(descending, widths, strict=True)])

    return shrink(problem, problem.scores, scale, rounds)
