"""Streams: groups that one layer after another adds to, which makes them dear to keep and hard to do without."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from autoprune.problem import Problem
from objectives import InfeasibleBudget
from search_spaces import SearchSpace, Widths


def streams(space: SearchSpace) -> tuple[int, ...]:
    """The numbers of the groups that are residual streams, ascending.

    A stream is made, read, and then added to: some layer that makes it comes after a layer that reads it, at as many
    positions. That leaves out what several layers make at once (queries and keys, a gate and its values: nobody has
    read them yet), a squeeze-and-excitation (its scale has one position) and depthwise layers (they pass channels on).
    """
    passing = {name for name, _ in space.grouped}
    made: dict[int, float] = {}  # group -> positions at which it was first made
    read: set[int] = set()
    found: set[int] = set()
    for layer in space.layers:
        if layer.name in passing:
            continue
        reads, makes = ({g for g, _ in axis.terms} for axis in (layer.reads, layer.makes))
        for group in makes:
            if group in read and layer.pixels == made.get(group):
                found.add(group)
            made.setdefault(group, layer.pixels)
        read |= reads & made.keys()
    return tuple(sorted(found))


def inner(space: SearchSpace, chosen: Collection[int]) -> set[int]:
    """The groups, other than streams, that some layer reads which adds to one of the `chosen` streams."""
    every = set(streams(space))
    found: set[int] = set()
    for layer in space.layers:
        if any(g in chosen for g, _ in layer.makes.terms):
            found |= {g for g, _ in layer.reads.terms}
    return found - every


def holding(problem: Problem, full: Collection[int]) -> Problem:
    """The same problem with some groups that stay at their full size.

    Raises:
        InfeasibleBudget: If the budgets cannot hold then.
    """
    held = replace(problem, space=problem.space.held(full))
    _ = held.feasibility
    return held


def between(problem: Problem, low: Sequence[float], high: Sequence[float]) -> Widths:
    """The last feasible point of the line from `low` to `high`, projected: what rounding leaves is used up.

    Args:
        problem: Space and budgets.
        low: [G] widths; they need not be legal.
        high: [G] widths.

    Raises:
        ValueError: If `low` breaks a budget.
    """
    steps = np.linspace(0, 1, 257)[:, None]
    line = np.asarray(low, dtype=np.float64) + steps * np.subtract(high, low)
    table = np.array([problem.space.clip(point) for point in line])
    inside = problem.feasibility.fits(table)
    if not inside[0]:
        raise ValueError("between: the lower end breaks a budget; give a smaller one")
    return problem.project(tuple(int(w) for w in table[int(np.flatnonzero(inside)[-1])]))


def streams_kept(problem: Problem) -> Problem | None:
    """The problem with its streams at their full size; None where there are none, or the budgets cannot hold then."""
    kept = streams(problem.space)
    try:
        return holding(problem, kept) if kept else None
    except InfeasibleBudget:
        return None
