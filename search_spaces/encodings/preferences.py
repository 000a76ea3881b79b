"""How readily each group's units stand for each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.encodings.encoding import Encoding, Fits, Floats, some
from search_spaces.encodings.ranking import Ranking
from search_spaces.space import SearchSpace, Widths


class Preferences(Encoding):
    """A preference factor per group for affinity propagation, all times one common factor that meets the budget.

    The larger its factor, the fewer exemplars a group keeps (EPruner, Lin et al. 2021,
    https://arxiv.org/abs/2101.07985). How fast they become fewer is the group's own curve, so what a change of the
    common factor takes from each group follows from its filters. The useful range of factors is narrow and different
    in each group; a coordinate is therefore measured along the group's curve: the share of units that its factor
    keeps. It is the share kept indeed if the common factor is 1. Smaller budgets give smaller widths in every group.

    Args:
        space: Legal widths.
        departures: Per group [C] positive, rising: the factor at which the first unit leaves, the second, ...
    """

    def __init__(self, space: SearchSpace, departures: Sequence[NDArray[Any]]) -> None:
        self.names = tuple(f"{g.name}.preference" for g in space.groups)
        self._ranking = Ranking(space, departures)
        # [C] the factors that keep 1, 2, ..., C units: halfway between two departures.
        self._keeping = [((d + np.append(0.0, d[:-1])) / 2)[::-1] for d in self._ranking.ascending]

    def decode(self, x: Floats, fits: Fits) -> Widths:
        """The widths of the smallest common factor that fits."""
        factors = [np.interp(u * len(k), np.arange(1, len(k) + 1), k) for u, k in zip(x, self._keeping, strict=True)]
        return self._ranking.cut(1 / np.array(factors), np.zeros(self.dim), fits)

    def encode(self, widths: Sequence[int]) -> Floats:
        """The shares kept: at the common factor 1 just these widths are left."""
        return np.array([w / len(k) for w, k in zip(widths, self._keeping, strict=True)])

    def mutate(self, x: Floats, rng: np.random.Generator, *, groups: int, step: float) -> Floats:
        """A normal step along the curve of `groups` groups, by a unit at least."""
        moved = np.array(x)
        for g in some(groups, self.dim, rng):
            by = rng.normal(0, step)
            moved[g] += np.copysign(max(abs(by), 1 / len(self._keeping[g])), by)
        return np.clip(moved, 0, 1)
