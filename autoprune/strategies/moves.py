"""The moves that strategies share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoprune.allocation import inner, streams
from autoprune.problem import Problem, Trial
from search_spaces import SearchSpace, Widths


def tournament(population: Sequence[Trial], size: int, rng: np.random.Generator) -> Trial:
    """The best of `size` members drawn with replacement (Real et al. 2019); of equal ones the older."""
    drawn = [population[int(i)] for i in rng.integers(len(population), size=size)]
    return min(drawn, key=lambda t: (t.loss, t.number))


def exchange(space: SearchSpace, widths: Widths, rng: np.random.Generator) -> Widths:
    """A network of another kind: a stream wider and its blocks thinner, or the other way round (not projected).

    One stream is drawn, or all of them; it is multiplied by a factor of up to 4, and the groups whose readers add to it
    are divided by the same.

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
        min(g.size, max(1.0, w * (factor if n in chosen else 1 / factor if n in others else 1.0)))
        for n, (g, w) in enumerate(zip(space.groups, widths, strict=True))
    ]
    return space.clip(moved)


def trade(problem: Problem, widths: Widths, rng: np.random.Generator) -> Widths:
    """A network near by: one group wider at the cost of another one, or of all others (projected).

    A move is a factor of up to 2, by one legal width at least: one unit becomes two, fifty become seventy.

    Args:
        problem: Space and budgets.
        widths: Where to start.
        rng: Draws.
    """
    groups, moved = problem.space.groups, list(widths)

    def move(number: int, factor: float) -> None:
        choices, old = groups[number].choices(), widths[number]
        beyond = [w for w in choices if (w - old) * (factor - 1) > 0]
        moved[number] = min(beyond, key=lambda w: abs(w - factor * old), default=old)

    able = [g for g, group in enumerate(groups) if len(group.choices()) > 1]
    if not able:
        return problem.project(widths)
    wider, thinner = (able[int(i)] for i in rng.choice(len(able), size=2, replace=len(able) < 2))
    if rng.random() < 0.5 and wider != thinner:
        move(thinner, 2.0 ** -rng.uniform(0.3, 1.0))
        choices = [w for w in groups[wider].choices() if w >= widths[wider]]
        table = np.tile(np.array(moved), (len(choices), 1))
        table[:, wider] = choices
        inside = np.flatnonzero(problem.feasibility.fits(table))
        moved[wider] = choices[int(inside[-1])] if len(inside) else widths[wider]
    else:
        move(wider, 2.0 ** rng.uniform(0.3, 1.0))
    return problem.project(tuple(moved))
