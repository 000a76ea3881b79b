"""The moves that strategies share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoprune.problem import Trial
from search_spaces import SearchSpace, Widths


def mutate(space: SearchSpace, widths: Widths, rng: np.random.Generator, *, groups: int, step: float) -> Widths:
    """Legal widths that differ from `widths` in up to `groups` groups (not projected on any budget).

    Args:
        space: Legal widths.
        widths: Where to start.
        rng: Draws.
        groups: How many groups move.
        step: Standard deviation of a move, as a fraction of the group's range; at least to the next legal width.
    """
    new = list(widths)
    for g in rng.choice(len(new), size=min(groups, len(new)), replace=False):
        choices = space.groups[g].choices()
        last = len(choices) - 1
        move = rng.normal(0, step) * last
        steps = int(np.sign(move) * max(1, round(abs(move))))
        old = choices.index(widths[g])
        rung = min(max(old + steps, 0), last)
        if rung == old:  # at the end of the range: the other way
            rung = min(max(old - steps, 0), last)
        new[g] = choices[rung]
    return tuple(new)


def tournament(population: Sequence[Trial], size: int, rng: np.random.Generator) -> Trial:
    """The best of `size` members drawn with replacement (Real et al. 2019); of equal ones the older."""
    drawn = [population[int(i)] for i in rng.integers(len(population), size=size)]
    return min(drawn, key=lambda t: (t.loss, t.number))
