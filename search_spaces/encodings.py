"""Unit cube <-> widths, so that any optimiser over floats can search any space.

An encoding says what the coordinates mean; whoever optimises over them need not know. Both here have one or two
coordinates per group.

Letters: `G` groups, `C` units of a group, `B` candidates in a batch, `D` coordinates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.space import SearchSpace, Widths

Floats = NDArray[np.float64]
Fits = Callable[[NDArray[np.int64]], NDArray[np.bool_]]  # widths [B, G] -> whether each keeps to every budget [B]


class Encoding(ABC):
    """What the coordinates of a search mean.

    Attributes:
        names: One name per coordinate.
    """

    names: tuple[str, ...]

    @property
    def dim(self) -> int:
        """Number of coordinates `D`."""
        return len(self.names)

    @abstractmethod
    def decode(self, x: Floats, fits: Fits) -> Widths:
        """The legal widths at the point `x` [D] of the unit cube (points outside are moved to its face)."""

    @abstractmethod
    def encode(self, widths: Sequence[int]) -> Floats:
        """A point [D] of the unit cube that stands for `widths`."""


class Ratios(Encoding):
    """One coordinate per group: 0 is the floor, 1 the full width, the legal widths lie evenly between."""

    def __init__(self, space: SearchSpace) -> None:
        self.names = tuple(g.name for g in space.groups)
        self._choices = tuple(g.choices() for g in space.groups)
        self._points = tuple({w: i / max(len(c) - 1, 1) for i, w in enumerate(c)} for c in self._choices)

    def decode(self, x: Floats, fits: Fits) -> Widths:
        """The legal widths; they may be outside the budgets (whoever asks projects them)."""
        rungs = (round(float(np.clip(u, 0, 1)) * (len(c) - 1)) for u, c in zip(x, self._choices, strict=True))
        return tuple(c[r] for r, c in zip(rungs, self._choices, strict=True))

    def encode(self, widths: Sequence[int]) -> Floats:
        """The point that decodes to `widths`; 0 for a group without a choice."""
        return np.array([points[w] for w, points in zip(widths, self._points, strict=True)])


class Ranking:
    """All units of all groups in one order; one threshold through it gives widths.

    Unit i of group g is worth `scale[g] * (score[g][i] + shift[g])`; units worth at most the threshold go.

    Args:
        space: Legal widths; the number of units above the threshold is rounded to the nearest one.
        scores: Importance of each unit, per group [C], higher = keep.
    """

    def __init__(self, space: SearchSpace, scores: Sequence[NDArray[Any]]) -> None:
        self.ascending = tuple(np.sort(np.asarray(s, dtype=np.float64)) for s in scores)
        self._legal = tuple(_nearest(np.array(g.choices())) for g in space.groups)
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


class LayerCompensation(Encoding):
    """A learnt scale and shift per group that make the scores of different groups comparable.

    LeGR (Chin et al. 2020, https://arxiv.org/abs/1904.12368) ranks all units by `alpha * score + kappa`. Here scores
    are divided by their group's mean first and the shift is added before the scale, `alpha * (score / mean + kappa)`:
    a step of kappa then means the same in every group and wherever alpha has gone. `alpha = 1` is LcP (Chin et al.
    2018, https://arxiv.org/abs/1810.00518). At one budget a group's width depends on one number, its cut
    `threshold / alpha - kappa`; alpha and kappa differ in how the cut moves when the budget does, so that what was
    learnt at one budget can be decoded at another.

    Coordinates: per group `log(alpha)` in [-2, 2], then per group kappa in [-2, 2]; the middle is the identity.
    """

    reach = 2.0

    def __init__(self, space: SearchSpace, scores: Sequence[NDArray[Any]]) -> None:
        groups = [g.name for g in space.groups]
        self.names = (*(f"{g}.scale" for g in groups), *(f"{g}.shift" for g in groups))
        self.ranking = Ranking(space, normalised(scores))

    def decode(self, x: Floats, fits: Fits) -> Widths:
        """The widths of the lowest threshold that fits."""
        log_scale, shift = np.split(self.reach * (2 * np.clip(x, 0, 1) - 1), 2)
        return self.ranking.cut(np.exp(log_scale), shift, fits)

    def theta(self, widths: Sequence[int]) -> Floats:
        """[2, G] log scale (0) and shift that put the threshold 1 where it leaves `widths`."""
        cuts = np.array([_between(s, w) for s, w in zip(self.ranking.ascending, widths, strict=True)])
        return np.stack([np.zeros(len(cuts)), 1 - cuts])

    def encode(self, widths: Sequence[int]) -> Floats:
        """The point with scale 1 that decodes to `widths`, as near as the reach of the shift allows."""
        return np.asarray(np.clip(self.theta(widths).ravel() / self.reach, -1, 1) / 2 + 0.5)


def normalised(scores: Sequence[NDArray[Any]]) -> tuple[Floats, ...]:
    """Scores divided by the mean magnitude of their group: raw norms of different layers do not compare."""
    arrays = [np.asarray(s, dtype=np.float64) for s in scores]
    return tuple(s / (np.abs(s).mean() or 1.0) for s in arrays)


def _nearest(choices: NDArray[Any]) -> NDArray[Any]:
    """[C + 1] the legal width nearest to each count of units (the smaller one of two equally near)."""
    counts = np.arange(choices[-1] + 1)
    return choices[np.searchsorted((choices[1:] + choices[:-1]) / 2, counts, side="left")]


def _between(ascending: Floats, width: int) -> float:
    """A cut below the best `width` scores and not below the others (halfway)."""
    removed = len(ascending) - width
    if removed == 0:
        return float(ascending[0] - 0.5 * max(abs(ascending[0]), 1e-6))
    return float((ascending[removed - 1] + ascending[removed]) / 2)
