"""Any encoding of a space in which branches may vanish."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from search_spaces.encodings.encoding import Encoding, Fits, Floats
from search_spaces.encodings.ratios import TOGGLES
from search_spaces.space import SearchSpace, Widths

ZERO = 0.15  # of the range of a group's first coordinate means width 0


class Depth(Encoding):
    """Another encoding, in which the lower end of each first coordinate means that the group's branch is gone.

    The rest of the range means what the whole range does in the other encoding, which knows nothing of width 0. What a
    ranking cuts then is what is still there.

    Args:
        space: Some of whose groups may vanish.
        inner: An encoding of `space.standing`.
    """

    def __init__(self, space: SearchSpace, inner: Encoding) -> None:
        assert space.vanishing is not None
        self.names, self.inner = inner.names, inner
        self._space, self._vanishing = space, space.vanishing
        self._may = np.array([group.floor == 0 for group in space.groups])
        self._least = np.array(space.standing.floor)
        self._single = [b for b in space.branches if self._may[list(b.causes[0])].all()]

    def decode(self, x: Floats, fits: Fits) -> Widths:
        """The legal widths at the point `x` [D]."""
        gone = self._gone(x)

        def inside(table: NDArray[np.int64]) -> NDArray[np.bool_]:
            return fits(self._vanishing.settled(np.where(gone, 0, table)))

        widths = self.inner.decode(self._inward(x), inside)
        return self._space.settled(np.where(gone, 0, widths).tolist())

    def encode(self, widths: Sequence[int]) -> Floats:
        """A point [D] that stands for `widths`."""
        table = np.array(widths)
        x = self._outward(self.inner.encode(np.where(table == 0, self._least, table).tolist()))
        x[: len(table)][table == 0] = ZERO / 2
        return x

    def mutate(self, x: Floats, rng: np.random.Generator, *, groups: int, step: float) -> Floats:
        """Moves in the other encoding; now and then a branch opens or closes, several where all groups move."""
        count, gone = len(self._may), self._gone(x)
        moved = self._outward(self.inner.mutate(self._inward(x), rng, groups=groups, step=step))
        moved[:count][gone] = np.asarray(x)[:count][gone]
        many = groups >= count
        for branch in self._single:
            if rng.random() >= (0.5 * TOGGLES if many else TOGGLES / len(self._single)):
                continue
            chosen = [g for g in branch.groups if self._may[g]]
            if any(gone[g] for g in branch.causes[0]):
                closed = [g for g in chosen if gone[g]]
                moved[closed] = ZERO + (1 - ZERO) * rng.random(len(closed))
            else:
                moved[chosen] = ZERO / 2
        return moved

    def _gone(self, x: Floats) -> NDArray[np.bool_]:
        return np.asarray(self._may & (np.asarray(x)[: len(self._may)] < ZERO))

    def _inward(self, x: Floats) -> Floats:
        """The point of the other encoding."""
        inner = np.array(x, dtype=np.float64)
        first = inner[: len(self._may)]
        first[self._may] = np.maximum(first[self._may] - ZERO, 0) / (1 - ZERO)
        return inner

    def _outward(self, inner: Floats) -> Floats:
        """The inverse, for groups that are there."""
        x = np.array(inner, dtype=np.float64)
        first = x[: len(self._may)]
        first[self._may] = ZERO + (1 - ZERO) * np.maximum(first[self._may], 0)
        return x
