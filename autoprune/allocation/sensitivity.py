"""What each group alone costs in loss, and one threshold through it.

Letters: `G` groups, `C` legal widths of a group.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence

import numpy as np

from autoprune.problem import Problem
from search_spaces import Widths
from search_spaces.encodings import Floats, normalised

# Rise of the loss at every legal width of each group [C], ascending widths; 0 at the full one.
Drops = tuple[Floats, ...]


def scan_widths(problem: Problem, points: int) -> tuple[Widths, ...]:
    """Which widths of each group to measure: `points` legal ones, evenly between the floor and the full width.

    All below the full width if there are no more than that; the floor itself only then, since it is rarely chosen. A
    width of 0, where there are two points or more, is one of them.
    """
    scanned = []
    for group in problem.space.groups:
        zero = group.choices()[:1] if group.floor == 0 and points > 1 else ()
        choices, count = group.choices()[len(zero) :], points - len(zero)
        last = len(choices) - 1
        even = np.arange(last) if count >= last else np.arange(1, count + 1) * last / (count + 1)
        scanned.append((*zero, *dict.fromkeys(choices[round(float(rung))] for rung in even)))
    return tuple(scanned)


def loss_rises(problem: Problem, dense: float, losses: Sequence[Mapping[int, float]]) -> Drops:
    """The table of a scan: linear between the scanned widths, and never falling as a group gets narrower.

    Args:
        problem: Space and budgets.
        dense: Loss of the dense network; the least of all losses if it is not finite.
        losses: Per group, width -> loss with this group alone shrunk to it; what is not finite (a failure) counts as
            the worst loss of the scan. So does the floor of a group, if it was not scanned: the line through the two
            narrowest scanned widths is far too hopeful there (but counts where it is even higher).
    """
    known = [loss for table in losses for loss in table.values() if np.isfinite(loss)]
    base = dense if np.isfinite(dense) else min(known, default=0.0)
    worst = max([loss - base for loss in known] + [0.0])
    rises = []
    for group, table in zip(problem.space.groups, losses, strict=True):
        points, rise = {group.size: 0.0}, 0.0
        for width in sorted(table, reverse=True):
            rise = max(rise, table[width] - base if np.isfinite(table[width]) else worst)
            points[width] = rise
        choices = group.choices()
        if choices[0] not in points:
            near, *wider = sorted(points)[:2]
            slope = (points[near] - points[wider[0]]) / (wider[0] - near) if wider else 0.0
            points[choices[0]] = max(worst, points[near] + slope * (near - choices[0]))
        x = sorted(points)
        rises.append(np.interp(choices, x, [points[w] for w in x]))
    return tuple(rises)


def threshold(problem: Problem, drops: Drops) -> Widths:
    """Every group takes its narrowest width whose loss rise is within one bound, the least that the budgets allow.

    The closed form of ModelOpt FastNAS (https://github.com/NVIDIA/Model-Optimizer), AIMET
    (https://github.com/quic/aimet), PaddleSlim (https://github.com/PaddlePaddle/PaddleSlim) and Vitis: groups are taken
    for independent and the worst one counts. The bound is found by bisection among the values of the table; what
    rounding leaves of the budgets is filled by projection.

    Args:
        problem: Space and budgets.
        drops: As `loss_rises` gives them.
    """
    levels = np.unique(np.concatenate(drops))

    def at(level: float) -> Widths:
        rungs = [int(np.argmax(rise <= level)) for rise in drops]
        return tuple(g.choices()[rung] for g, rung in zip(problem.space.groups, rungs, strict=True))

    def fits(level: float) -> bool:
        return bool(problem.feasibility.fits(np.array([at(level)]))[0])

    least = bisect.bisect_left(levels, True, key=fits)
    return problem.project(at(levels[min(least, len(levels) - 1)]))


def summed_scores(problem: Problem, normaliser: str = "none") -> Drops:
    """What the scores of the run's criterion say that each group alone loses at its legal widths: their sum.

    A scan that costs nothing. Scores that are changes of the loss (Taylor, Fisher) are of one scale in all groups.

    Args:
        problem: Space and scores.
        normaliser: What the scores of a group are divided by first, as in `global_ranking`.
    """
    drops = []
    for group, scores in zip(problem.space.groups, normalised(problem.scores, normaliser), strict=True):
        lost = np.concatenate([[0.0], np.cumsum(np.maximum(np.sort(scores), 0))])  # [C + 1] by how many units are gone
        drops.append(lost[group.size - np.array(group.choices())])
    return tuple(drops)


def equal_loss(problem: Problem, *, normaliser: str = "none") -> Widths:
    """Every group loses as much of the score as every other, as much as the budgets demand: `threshold` without a scan.

    On ResNet-56 the widths are near those of FastNAS's scan of 399 evaluations (results/benchmarks/quality.md): groups
    of many weak units go to a few, and those whose every unit counts, such as residual streams, stay.

    Args:
        problem: Space, budgets and scores.
        normaliser: See `summed_scores`.
    """
    return threshold(problem, summed_scores(problem, normaliser))
