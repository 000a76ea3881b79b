"""All units of all groups in one order, and one threshold through it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.encodings.encoding import Fits, Floats
from search_spaces.space import SearchSpace, Widths


class Ranking:
    """All units of all groups in one order; one threshold through it gives widths.

    Unit i of group g is worth `scale[g] * (score[g][i] + shift[g])`; units worth at most the threshold go.

    Args:
        space: Legal widths; the number of units above the threshold is rounded to the nearest one (to none, never).
        scores: Importance of each unit, per group [C], higher = keep.
    """

    def __init__(self, space: SearchSpace, scores: Sequence[NDArray[Any]]) -> None:
        self.ascending = tuple(np.sort(np.asarray(s, dtype=np.float64)) for s in scores)
        self._legal = tuple(_nearest(np.array(g.choices())) for g in space.standing.groups)
        self._knots = np.array([s[np.linspace(0, len(s) - 1, 9).astype(int)] for s in self.ascending])  # [G, 9]

    def cut(self, scale: Floats, shift: Floats, fits: Fits) -> Widths:
        """The widths of the lowest threshold that fits, by bisection (32 sections a round).

        Args:
            scale: [G] positive factors.
            shift: [G] in units of the scores.
            fits: Must hold for the smallest network, and go on holding as widths fall.
        """
        full = np.array([[len(s) for s in self.ascending]])
        if fits(full)[0]:
            return tuple(int(w) for w in full[0])
        worths = np.unique(scale[:, None] * (self._knots + shift[:, None]))
        # Along the units' own worths first, as they may span many powers of ten; then evenly between two of them.
        low, high = self._bracket(np.concatenate([[np.nextafter(worths[0], -np.inf)], worths]), scale, shift, fits)
        low, high = self._bracket(np.linspace(low, high, 1025), scale, shift, fits)
        return tuple(int(w) for w in self.above(high / scale[None] - shift)[0])

    def _bracket(self, grid: Floats, scale: Floats, shift: Floats, fits: Fits) -> tuple[float, float]:
        """The two neighbours on the rising `grid` between which candidates begin to fit (its last one fits)."""
        first, last = 0, len(grid) - 1
        while last - first > 1:
            tried = np.unique(np.linspace(first, last, 33).astype(int))
            inside = fits(self.above(grid[tried[1:-1], None] / scale - shift))
            count = int(np.argmax([*inside, True]))
            first, last = int(tried[count]), int(tried[count + 1])
        return float(grid[first]), float(grid[last])

    def above(self, cuts: Floats) -> NDArray[np.int64]:
        """Legal widths [B, G] nearest to the number of units whose score exceeds `cuts` [B, G]."""
        columns = [
            legal[len(s) - np.searchsorted(s, cuts[:, g], side="right")]
            for g, (s, legal) in enumerate(zip(self.ascending, self._legal, strict=True))
        ]
        return np.stack(columns, axis=1).astype(np.int64)


NORMALISERS: Mapping[str, Callable[[Floats], Any]] = {
    "none": lambda magnitudes: 1.0,
    "mean": np.mean,
    "max": np.max,
    "std": np.std,
}  # name -> what the scores of a group [C] are divided by, from their magnitudes


def divisor_of(scores: NDArray[Any], normaliser: str) -> float:
    """What the scores [C] of one group are divided by; 1 where that would be 0.

    Raises:
        ValueError: If there is no such normaliser.
    """
    if normaliser not in NORMALISERS:
        raise ValueError(f"unknown normaliser '{normaliser}'; known: {', '.join(NORMALISERS)}")
    return float(NORMALISERS[normaliser](np.abs(scores))) or 1.0


def normalised(scores: Sequence[NDArray[Any]], normaliser: str = "mean") -> tuple[Floats, ...]:
    """Scores divided by one number per group: raw norms of different layers do not compare.

    Args:
        scores: Per group [C].
        normaliser: A name of `NORMALISERS`.

    Raises:
        ValueError: If there is no such normaliser.
    """
    arrays = [np.asarray(s, dtype=np.float64) for s in scores]
    return tuple(s / divisor_of(s, normaliser) for s in arrays)


def _nearest(choices: NDArray[Any]) -> NDArray[Any]:
    """[C + 1] the legal width nearest to each count of units (the smaller one of two equally near)."""
    counts = np.arange(choices[-1] + 1)
    return choices[np.searchsorted((choices[1:] + choices[:-1]) / 2, counts, side="left")]
