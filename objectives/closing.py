"""Branches on the ladder of legal widths: which are shut, and which are to be where widths alone do not fit.

Letters: `B` candidates, `G` groups, `K` budgets, `L` rungs. A branch is *shut* where its groups are at width 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from objectives.ladder import Ints, Ladder
from objectives.products import Floats
from search_spaces import SearchSpace

_TINY = 1e-12
STAYS = 4  # a branch is closed where not even this part of a proposal's widths fits


class Shutting:
    """What may be shut in a space.

    Args:
        space: Some of whose groups may vanish.
        ladder: Its legal widths.
    """

    def __init__(self, space: SearchSpace, ladder: Ladder) -> None:
        assert space.vanishing is not None
        self._space, self._ladder, self._vanishing = space, ladder, space.vanishing
        self._may = np.array([group.floor == 0 for group in space.groups])

    def shut(self, rungs: Ints) -> NDArray[np.bool_]:
        """[G] which groups are at width 0."""
        return np.asarray(self._may & (rungs == 0))

    def settled(self, rungs: Ints) -> Ints:
        """Rung 0 for all that goes with a group at width 0."""
        gone = self._vanishing.settled(self._ladder.at(rungs)) == 0
        return np.where(gone, 0, rungs)

    def least(self, rungs: Ints) -> Ints:
        """The lowest rungs that keep what is there."""
        return np.where(self._may & (rungs > 0), 1, 0)

    def closed(
        self,
        rungs: Ints,
        fits: Callable[[Ints], NDArray[np.bool_]],
        prices: Callable[[Ints], Floats],
        bounds: Floats,
        gains: Floats | None,
    ) -> Ints:
        """The proposal, without as many branches as it takes that a part of its widths fits.

        Args:
            rungs: [G] the proposal's.
            fits: Rungs [B, G] -> whether they keep to the budgets.
            prices: Rungs [B, G] -> costs [B, K].
            bounds: [K] largest allowed costs.
            gains: [G, L] score of the step up from each rung; None: all units are worth the same share of their group.
        """
        rungs = self.settled(rungs)
        if fits(rungs[None])[0]:
            return rungs
        while not fits(self._part(rungs)[None])[0]:
            found = {tuple(self._without(rungs, b.causes[0]).tolist()) for b in self._space.branches}
            others = np.array(sorted(found - {tuple(rungs.tolist())}), dtype=np.int64).reshape(-1, len(rungs))
            if not len(others):
                break
            now = prices(rungs[None])[0]
            over = now > bounds
            freed = ((now - prices(others)) / bounds)[:, over].sum(axis=1)
            lost = self._worth(rungs, gains) - np.array([self._worth(o, gains) for o in others])
            rungs = others[int(np.argmin(lost / np.maximum(freed, _TINY)))]
        return rungs

    def _part(self, rungs: Ints) -> Ints:
        """The proposal at a part of its widths, with every branch that it has."""
        part = self._ladder.down(self._ladder.at(rungs) / STAYS)
        return np.maximum(part, self.least(rungs))

    def _without(self, rungs: Ints, groups: tuple[int, ...]) -> Ints:
        gone = rungs.copy()
        gone[[g for g in groups if self._may[g]]] = 0
        return self.settled(gone)

    def _worth(self, rungs: Ints, gains: Floats | None) -> float:
        if gains is None:
            return float((self._ladder.at(rungs) / self._ladder.at(self._ladder.top)).sum())
        below = np.arange(gains.shape[1]) < rungs[:, None]
        return float((gains * below).sum())
