"""The moves that strategies share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoprune.allocation import inner, streams
from autoprune.problem import Trial
from search_spaces import SearchSpace, Widths


def tournament(population: Sequence[Trial], size: int, rng: np.random.Generator) -> Trial:
    """The best of `size` members drawn with replacement (Real et al. 2019); of equal ones the older."""
    drawn = [population[int(i)] for i in rng.integers(len(population), size=size)]
    return min(drawn, key=lambda t: (t.loss, t.number))


def exchange(space: SearchSpace, widths: Widths, rng: np.random.Generator) -> Widths:
    """A network of another kind: a stream wider and its blocks thinner, or the other way round (not projected).

    One stream is drawn, or all of them; it is multiplied by a factor of up to 4, and the groups whose readers add to it
    are divided by the same. A branch that is gone stays gone.

    Args:
        space: Legal widths; it must have a stream.
        widths: Where to start.
        rng: Draws.
    """
    found = streams(space)
    drawn = int(rng.integers(-1, len(found)))  # -1: all
    chosen = set(found if drawn < 0 else found[drawn : drawn + 1])
    others = inner(space, chosen)
    factor = 2.0 ** rng.uniform(0.5, 2.0) if rng.random() < 0.5 else 2.0 ** -rng.uniform(0.5, 2.0)
    moved = [
        w and min(g.size, max(1.0, w * (factor if n in chosen else 1 / factor if n in others else 1.0)))
        for n, (g, w) in enumerate(zip(space.groups, widths, strict=True))
    ]
    return space.clip(moved)
