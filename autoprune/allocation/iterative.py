"""Scores by iterative pruning: what a unit is worth once the others that go are gone.

Letters: `G` groups, `C` units of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from autoprune.allocation.sensitivity import equal_loss
from autoprune.criteria.scoring import Scores
from autoprune.problem import Problem
from search_spaces import Kept, copy_of, mask, prune
from search_spaces.scattering import scatter

Masks = tuple[NDArray[np.bool_], ...]
STEP = 1e-9  # by which a unit is worth more than the one that went before it, of the largest score


def iterative_scores(
    problem: Problem,
    dense: nn.Module,
    rounds: int,
    score: Callable[[nn.Module], Sequence[NDArray[np.float64]]],
    train: Callable[[nn.Module], None],
) -> Scores:
    """Scores that a criterion gives while the network is pruned in rounds, and trained a little between them.

    A score of the dense network takes every unit alone: of two that do the same, each can be spared, and both go. So
    the network is cut in rounds, along a geometric schedule from its full costs to the budgets, each time by
    `equal_loss` over scores of what the last rounds have left and a short training has adapted. The weights that were
    trained serve the scores only. The order in which a group's units go is what the rounds find: the group keeps the
    values of its dense scores, which tell how wide it should be, the least for the unit that went first.

    Source: pruning, training and scoring in turns is Molchanov et al. 2017 (https://arxiv.org/abs/1611.06440) and Liu
    et al. 2021 (https://arxiv.org/abs/2108.00708). That such units are worth more even with the weights that they
    had in the dense network, but the widths less than those by the dense scores, was measured here
    (results/benchmarks/quality.md).

    Args:
        problem: Space, budgets and the dense network's scores, with which the first round begins.
        dense: The dense network, on the CPU; left as it is.
        rounds: How many; 1 gives the dense network's scores.
        score: The criterion's scores of a network of the dense one's size in which what is gone is masked.
        train: Adapts a pruned network in place.

    Raises:
        Whatever `score` and `train` raise.
    """
    net, space, scores = copy_of(dense), problem.space, tuple(problem.scores)
    alive = tuple(np.ones(g.size, dtype=bool) for g in space.groups)
    left = tuple(np.zeros(g.size) for g in space.groups)  # when a unit goes
    for number in range(1, rounds + 1):
        kept = cut(problem, scores, number / rounds)
        stay = masks(problem, kept)
        _leave(left, number, scores, tuple(a & ~s for a, s in zip(alive, stay, strict=True)))
        alive = stay
        if number < rounds:
            small = prune(net, space, kept)
            train(small)
            scatter(small.cpu(), net, space, kept)
            found = score(mask(net, space, kept))
            scores = tuple(np.where(a, f, min(f.min(), 0.0) - 1) for a, f in zip(alive, found, strict=True))
    _leave(left, rounds + 1, scores, alive)
    return tuple(_in_order(values, when) for values, when in zip(problem.scores, left, strict=True))


def masks(problem: Problem, kept: Kept) -> Masks:
    """Per group [C] whether a unit is kept."""
    return tuple(np.isin(np.arange(g.size), units) for g, units in zip(problem.space.groups, kept, strict=True))


def cut(problem: Problem, scores: Scores, share: float) -> Kept:
    """The units that stay, a share of the way from the full costs (0) to the budgets (1) on a logarithmic scale."""
    now = problem if share == 1 else problem.on_the_way(share)
    return problem.space.kept(equal_loss(replace(now, scores=scores)), scores)


def _leave(left: Scores, number: int, scores: Scores, going: Masks) -> None:
    """Write down for the units that go in this round when they do, the least score first; a later round counts."""
    for mine, score, now in zip(left, scores, going, strict=True):
        units = np.flatnonzero(now)
        mine[units[np.argsort(score[units], kind="stable")]] = number * len(now) + np.arange(len(units))


def _in_order(values: NDArray[np.float64], when: NDArray[np.float64]) -> NDArray[np.float64]:
    """[C] the values, the least for the unit that goes first, and none like another."""
    worth = np.empty(len(values))
    worth[np.argsort(when)] = np.sort(values) + np.arange(len(values)) * STEP * (np.abs(values).max() or 1.0)
    return worth
