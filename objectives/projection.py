"""How a proposal is brought inside the budgets: along one scale factor, then step by step.

Letters: `B` candidates, `G` groups, `K` budgets, `L` rungs of the longest ladder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from objectives.closing import Shutting
from objectives.ladder import Ints, Ladder
from objectives.products import Floats
from search_spaces import SearchSpace, Widths

_TINY = 1e-12


class Projection:
    """Feasible legal widths near any proposal, with no step of any group left that would still fit.

    A proposal over budget shrinks towards the floor along one scale factor; one under budget grows towards the dense
    network in the same way; its shape is kept. What rounding leaves is filled in steps: groups up to the proposal
    before groups beyond it, every group once before any group twice, the most score per cost first (without scores:
    the group furthest below its place on the line). All single steps are priced as one batch.

    What is feasible and maximal is returned as it is, so projecting twice is projecting once. Costs need not be
    linear; where one is not monotone the result is still feasible and maximal.

    Where branches may vanish, a proposal's 0 stays 0, whatever that leaves of the budgets, and what is there stays as
    long as a quarter of the proposal fits; then branches go, the least score for what they free first (see closing.py).

    Args:
        space: What may be pruned.
        prices: Widths [B, G] -> costs [B, K].
        bounds: [K] largest allowed costs; the floor of the space keeps them.
        scores: Importance per group [C], higher = keep.
    """

    def __init__(
        self,
        space: SearchSpace,
        prices: Callable[[NDArray[Any]], Floats],
        bounds: Floats,
        scores: Sequence[NDArray[Any]] | None = None,
    ) -> None:
        self._ladder = Ladder(space.groups)
        self._shutting = Shutting(space, self._ladder) if space.vanishing else None
        self._widths_to_prices = prices
        self._bounds = bounds
        self._gains = None if scores is None else _gains(space, scores, self._ladder)  # [G, L]

    def __call__(self, widths: Floats) -> Widths:
        """Project the widths [G]."""
        proposal, top = self._ladder.nearest(widths), self._ladder.top
        least = np.zeros_like(proposal)
        if self._shutting is not None:
            proposal = self._shutting.closed(proposal, self._fits, self._prices, self._bounds, self._gains)
            least = self._shutting.least(proposal)
            top = np.where(self._shutting.shut(proposal), 0, top)
        if self._fits(proposal[None])[0]:
            movable, _ = self._steps(proposal, top)
            rungs, target, caps = proposal, widths, []
            if len(movable):
                (rungs, target), caps = self._along(proposal, top), [top]
        else:
            (rungs, target), caps = self._along(least, proposal), [proposal, top]
        for cap in caps:
            rungs = self._fill(rungs, cap, target)
        return tuple(int(w) for w in self._ladder.at(rungs))

    def _prices(self, rungs: Ints) -> Floats:
        return self._widths_to_prices(self._ladder.at(rungs))

    def _fits(self, rungs: Ints) -> NDArray[np.bool_]:
        return np.asarray((self._prices(rungs) <= self._bounds).all(axis=1))

    def _steps(self, rungs: Ints, cap: Ints) -> tuple[Ints, Floats]:
        """Groups that can climb one rung alone: their numbers [M], and the costs [M, K] after the step."""
        movable = np.flatnonzero(rungs < cap)
        prices = self._prices(rungs + np.eye(len(rungs), dtype=np.int64)[movable])
        fitting = (prices <= self._bounds).all(axis=1)
        return movable[fitting], prices[fitting]

    def _along(self, start: Ints, end: Ints) -> tuple[Ints, Floats]:
        """The last feasible point from `start` (feasible) to `end`: its rungs, and its widths before rounding down."""
        origin = self._ladder.at(start).astype(np.float64)
        way = self._ladder.at(end) - origin
        if self._fits(end[None])[0]:
            return end, origin + way
        low, high = 0.0, 1.0
        for _ in range(4):  # 32 sections a round: the scale factor to 1e-6
            scales = np.linspace(low, high, 33)
            last = _leading(self._fits(self._ladder.down(origin + scales[1:-1, None] * way)))
            low, high = scales[last], scales[last + 1]
        target = origin + low * way
        return self._ladder.down(target), target

    def _fill(self, rungs: Ints, cap: Ints, target: Floats) -> Ints:
        """Climb as far as the budgets and `cap` allow."""
        climbed = np.zeros_like(rungs)
        stride = 1
        while True:
            movable, prices = self._steps(rungs, cap)
            if not len(movable):
                return rungs
            movable = movable[self._order(rungs, movable, prices, target, climbed)]
            rises = np.zeros((len(movable), len(rungs)), dtype=np.int64)
            rises[np.arange(len(movable)), movable] = np.minimum(stride, (cap - rungs)[movable])
            climbs = rungs + np.cumsum(rises, axis=0)  # row m: the first m + 1 of them climb
            count = _leading(self._fits(climbs))
            if stride == 1:
                count = max(count, 1)  # the first step alone was found to fit
            if count:
                climbed[movable[:count]] += stride
                rungs = climbs[count - 1]
            stride = 2 * stride if count == len(movable) else 1  # much is left: take longer steps

    def _order(self, rungs: Ints, movable: Ints, prices: Floats, target: Floats, climbed: Ints) -> Ints:
        """Who climbs first: positions in `movable`."""
        now = self._ladder.at(rungs)
        lack = ((target - now) / np.maximum(target, 1))[movable]
        if self._gains is None:
            return np.lexsort((-lack, climbed[movable]))
        here = self._prices(rungs[None])
        spent = ((prices - here) / np.maximum(self._bounds - here, _TINY * self._bounds)).max(axis=1, initial=0)
        worth = self._gains[movable, rungs[movable]] / np.maximum(spent, _TINY)  # score per share of what is left
        return np.lexsort((-lack, -worth, climbed[movable]))


def _leading(flags: NDArray[np.bool_]) -> int:
    """How many of the first flags are true."""
    return len(flags) if flags.all() else int(np.argmin(flags))


def _gains(space: SearchSpace, scores: Sequence[NDArray[Any]], ladder: Ladder) -> Floats:
    """[G, L] score that the step up from each rung adds, best units first (at least 0)."""
    if len(scores) != len(space.groups):
        raise ValueError(f"scores: expected one array per group ({len(space.groups)}), got {len(scores)}")
    gains = np.zeros(ladder.widths.shape)
    for g, (group, score) in enumerate(zip(space.groups, scores, strict=True)):
        values = np.asarray(score, dtype=np.float64)
        if values.shape != (group.size,) or not np.isfinite(values).all():
            raise ValueError(f"scores of group '{group.name}': expected {group.size} finite numbers, got {values}")
        total = np.concatenate([[0.0], np.cumsum(np.sort(values)[::-1])])
        gains[g, :-1] = np.maximum(np.diff(total[ladder.widths[g]]), 0)
    return gains
