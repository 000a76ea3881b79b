"""As many units per group as can stand for all of it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from autoprune.criteria.affinity import departures
from autoprune.problem import Problem
from search_spaces import Widths
from search_spaces.encodings import Floats, Ranking


def exemplars(problem: Problem) -> Widths:
    """Each group keeps about as many units as it has exemplars at one common preference factor, solved for the budgets.

    EPruner (Lin et al. 2021, https://arxiv.org/abs/2101.07985) counts the exemplars that affinity propagation finds
    among a group's filters, at a factor chosen by hand per network. Such factors do not transfer (0.76 leaves
    39 % of the authors' ResNet-56 and 9 % of another one), so here the smallest factor that keeps to the budgets is
    found by bisection. Floors hold. Which units stay is the criterion's word, as everywhere.

    A group's count at a factor is read off a curve through at most 10 factors where it was worked out (see
    `criteria.affinity.departures`), so it is near the number of exemplars and not the number itself: at 7 factors on
    ResNet-20 it was off by -6 to +3 in groups of 64, by -3 to +2 of 32 and by -1 to +2 of 16. Projection then fills the
    rest of the budgets.

    Raises:
        ValueError: If the problem holds no distances.
    """
    ones = np.ones(len(problem.space.groups))
    ranking = Ranking(problem.space, factors(problem))
    return problem.project(ranking.cut(ones, 0 * ones, problem.feasibility.fits))


@lru_cache(maxsize=2)  # seconds for a large network, and asked for by the allocation and the encoding
def factors(problem: Problem) -> tuple[Floats, ...]:
    """Per group [C] the factors at which its exemplars become fewer, interpolated: `criteria.affinity.departures`.

    Raises:
        ValueError: If the problem holds no distances.
    """
    if problem.distances is None:
        raise ValueError(
            "exemplars: Problem.distances must hold the distances between the filters, found None; fill it with "
            "autoprune.criteria.distances(model, space)"
        )
    return tuple(departures(d) for d in problem.distances)
