"""Scores by iterative pruning: what a unit is worth once the others that go are gone.

Letters: `G` groups, `C` units of a group.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from autoprune.allocation.sensitivity import equal_loss
from autoprune.criteria.scoring import Scores
from autoprune.problem import Problem
from objectives import Budget
from search_spaces import Kept, mask, prune
from search_spaces.scattering import scatter

Masks = tuple[NDArray[np.bool_], ...]
STEP = 1e-6  # by which a unit is worth more than the one that went before it, at least


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
    trained serve the scores only. A unit's score is that of the round in which it goes, and never less than that of one
    of its group which went before; so any widths keep those units that went last.

    Source: pruning, training and scoring in turns is Molchanov et al. 2017 (https://arxiv.org/abs/1611.06440) and Liu
    et al. 2021 (https://arxiv.org/abs/2108.00708); that the units found so are worth more even with the weights that
    they had in the dense network was measured here (results/benchmarks/quality.md).

    Args:
        problem: Space, budgets and the dense network's scores, with which the first round begins.
        dense: The dense network, on the CPU; left as it is.
        rounds: How many; 1 gives the dense network's scores in their order.
        score: The criterion's scores of a network of the dense one's size in which what is gone is masked.
        train: Adapts a pruned network in place.

    Raises:
        Whatever `score` and `train` raise.
    """
    net, space, scores = copy.deepcopy(dense), problem.space, tuple(problem.scores)
    alive = tuple(np.ones(g.size, dtype=bool) for g in space.groups)
    worth = tuple(np.zeros(g.size) for g in space.groups)
    for number in range(1, rounds + 1):
        kept = cut(problem, scores, number / rounds)
        stay = masks(problem, kept)
        going = tuple(a & ~s for a, s in zip(alive, stay, strict=True))
        _follow(worth, scores, going, tuple(~a for a in alive))
        alive = stay
        if number < rounds:
            small = prune(net, space, kept)
            train(small)
            scatter(small.cpu(), net, space, kept)
            found = score(mask(net, space, kept))
            scores = tuple(np.where(a, f, min(f.min(), 0.0) - 1) for a, f in zip(alive, found, strict=True))
    _follow(worth, scores, alive, tuple(~a for a in alive))
    return worth


def masks(problem: Problem, kept: Kept) -> Masks:
    """Per group [C] whether a unit is kept."""
    return tuple(np.isin(np.arange(g.size), units) for g, units in zip(problem.space.groups, kept, strict=True))


def cut(problem: Problem, scores: Scores, share: float) -> Kept:
    """The units that stay, a share of the way from the full costs (0) to the budgets (1) on a logarithmic scale."""
    feasibility = problem.feasibility
    full = feasibility.price(problem.space.full)
    limits = {m: full[m] * min(1.0, limit / full[m]) ** share for m, limit in feasibility.limits.items() if full[m] > 0}
    budgets = problem.budgets if share == 1 else tuple(Budget(metric, limit) for metric, limit in limits.items())
    now = replace(problem, scores=scores, budgets=budgets)
    return problem.space.kept(equal_loss(now), scores)


def _follow(worth: Scores, scores: Scores, going: Masks, gone: Masks) -> None:
    """Give the units that go now their worth: their score, but more than that of all in their group that went before.

    Args:
        worth: Per group [C]; changed in place.
        scores: Per group [C], of now.
        going: Per group [C], which units go.
        gone: Per group [C], which went before.
    """
    for mine, score, now, before in zip(worth, scores, going, gone, strict=True):
        last = mine[before].max(initial=-np.inf)
        for unit in np.flatnonzero(now)[np.argsort(score[now], kind="stable")]:
            last = mine[unit] = max(score[unit], last + STEP * abs(last) if np.isfinite(last) else last)
