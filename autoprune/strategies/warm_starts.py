"""The first candidates of every search."""

from __future__ import annotations

import numpy as np

from autoprune.allocation import closings, equal_loss, global_ranking, knapsack, uniform, without_bottlenecks
from autoprune.allocation.global_ranking import ROUNDS
from autoprune.allocation.peers import peer_rules
from autoprune.allocation.streams import between, streams, streams_kept
from autoprune.problem import Problem
from search_spaces import Widths


def warm_starts(problem: Problem) -> tuple[Widths, ...]:
    """Networks of every kind, feasible and distinct, to be evaluated and told as trials 0..k-1 whatever the strategy.

    Where a search begins matters more than how long it goes on: moves of a few groups do not lead from thin streams
    with wide blocks to full streams with blocks of one channel. So each kind is there once at least, the closed forms
    over the whole space and with the streams kept, what other tools would answer, and blocks thinned to their floor. A
    search of few trials has the first of them only:

    - `allocation.equal_loss`, the best of the closed forms after training, then `allocation.peer_rules`;
    - the other closed forms of `allocation` over the whole space; the knapsack also over scores that are divided by
      the mean of their group, and the middle between knapsack and uniform: a one-shot score takes the differences
      between groups for larger than they are;
    - the same with the streams at their full size, or with no group below a twentieth of its units;
    - every second inner group at its floor;
    - where branches may vanish, without some of them, the others as wide as they can be (`allocation.closings`).
    """
    even, greedy = uniform(problem), knapsack(problem)
    middle = problem.project(problem.space.clip(np.add(even, greedy) / 2))
    whole = [even, global_ranking(problem), greedy, knapsack(problem, normaliser="mean"), middle]
    kept = streams_kept(problem)
    held = [knapsack(kept), global_ranking(kept, rounds=ROUNDS)] if kept else []
    broad = without_bottlenecks(problem)
    held += [equal_loss(broad), knapsack(broad), knapsack(broad, normaliser="mean")] if broad else []
    others = (*_thinned(problem), *_thinned(kept), *_closed(problem))
    return tuple(dict.fromkeys((equal_loss(problem), *peer_rules(problem), *whole, *held, *others)))


def _closed(problem: Problem) -> list[Widths]:
    """Without one branch, without two ...: some of them; nothing where none may vanish."""
    starts = closings(problem)[1:]
    return [problem.project(widths) for widths in starts[:: max(1, len(starts) // 3)]]


def _thinned(problem: Problem | None) -> list[Widths]:
    """Every second inner group that may shrink at its floor, the others alike; nothing where that breaks a budget."""
    if problem is None:
        return []
    space = problem.space
    inner = [g for g, group in enumerate(space.groups) if g not in streams(space) and group.floor < group.size]
    high = list(space.full)
    for group in inner[1::2]:
        high[group] = space.standing.floor[group]
    return [between(problem, space.floor, high)] if len(inner) > 1 else []
