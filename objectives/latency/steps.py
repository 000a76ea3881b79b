"""Which multiples of channels a device likes, group by group: what `--divisor auto` chooses.

A device that computes channels in blocks takes as long for 17 channels as for 32: every width between is a waste, and
a search that may propose them mostly does. On a device without blocks a coarse divisor only takes choices away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from objectives.budget import Budget
from objectives.costs import PricesBatch
from objectives.feasibility import Feasibility
from objectives.ladder import Ints
from objectives.products import Floats
from objectives.unreachable import InfeasibleBudget
from search_spaces import SearchSpace, Widths

DIVISORS = (1, 2, 4, 8, 16)  # that are tried
_LIMITS = 257  # that are tried, from the shortest time to the longest


def with_divisors(space: SearchSpace, divisors: Sequence[int]) -> SearchSpace:
    """The same space, every group with a divisor of its own."""
    groups = tuple(replace(group, divisor=d) for group, d in zip(space.groups, divisors, strict=True))
    return replace(space, groups=groups)


def fast_divisors(space: SearchSpace, prices: Mapping[str, PricesBatch], budgets: Sequence[Budget]) -> tuple[int, ...]:
    """For every group the divisor under which a search gets the most channels for its milliseconds.

    Each group is looked at alone, all others as they are in the dense network shrunk evenly to the budgets.

    Args:
        space: With the legal widths that hold whatever the divisor.
        prices: The predictors of the devices that a budget is on.
        budgets: What must hold: where the multiples leave no network that does, all divisors are halved.

    Returns:
        [G] of `DIVISORS`; with several devices the one with the least loss on all of them together; 1 without any.
    """
    if not prices:
        return (1,) * len(space.groups)
    even = Feasibility(space, budgets, costs=prices).project(space.full)
    even = tuple(w or least for w, least in zip(even, space.standing.floor, strict=True))  # beside all branches
    found = tuple(_best(space, even, number, list(prices.values())) for number in range(len(space.groups)))
    while max(found, default=1) > 1:
        try:
            Feasibility(with_divisors(space, found), budgets, costs=prices)
        except InfeasibleBudget:
            found = tuple(max(1, divisor // 2) for divisor in found)
        else:
            break
    return found


def _best(space: SearchSpace, even: Widths, number: int, prices: Sequence[PricesBatch]) -> int:
    widths = np.array(space.standing.groups[number].choices())
    table = np.tile(np.array(even), (len(widths), 1))
    table[:, number] = widths
    times = [np.asarray(price(table)) for price in prices]

    def total(divisor: int) -> float:
        return sum(loss(widths, ms, divisor, even[number] / 2) for ms in times)

    return min(DIVISORS, key=total)


def loss(widths: Ints, ms: Floats, divisor: int, least: float = 0.0) -> float:
    """What a search loses under a divisor, as a share of the group's channels.

    At a time limit the best that a group can have is a mixture of two widths: many groups share one limit, so one of
    them may be above it where another is below. The loss is the sum of three: what the search may choose in vain
    (allowed widths against the best mixture of them at their time); what it cannot choose (the best mixture of all
    widths against that of the allowed ones); and the variance of rounding, as near its optimum the network loses by the
    square.

    Args:
        widths: [C] all widths, ascending.
        ms: [C] what they take.
        divisor: Allowed are its multiples and the last width.
        least: A width that should be in reach.
    """
    allowed = (widths % divisor == 0) | (widths == widths[-1])
    some, fast = widths[allowed], ms[allowed]
    vain = _mixture(some, fast, fast) - some
    wasted = ((vain[1:] + vain[:-1]) / 2 * np.diff(some)).sum() / max(some[-1] - some[0], 1)
    limits = np.linspace(ms[np.searchsorted(widths, least)], ms.max(), _LIMITS)
    missing = _mixture(widths, ms, limits) - _mixture(some, fast, limits)
    size = widths[-1]
    return float((wasted + missing.mean()) / size + (divisor / size) ** 2 / 12)


def _mixture(widths: Ints, ms: Floats, limits: Floats) -> Floats:
    """Channels at each limit by the best mixture of two widths (the concave hull); 0 below the fastest of them."""
    hull: list[tuple[float, float]] = []
    for index in np.lexsort((-widths, ms)).tolist():
        x, y = float(ms[index]), float(widths[index])
        if hull and y <= hull[-1][1]:
            continue
        while len(hull) > 1 and (y - hull[-1][1]) * (hull[-1][0] - hull[-2][0]) >= (hull[-1][1] - hull[-2][1]) * (
            x - hull[-1][0]
        ):
            hull.pop()
        hull.append((x, y))
    xs, ys = np.array(hull).T
    return np.asarray(np.interp(limits, xs, ys, left=0.0))
