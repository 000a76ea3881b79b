"""Several objectives at once: dominance, the front, its hypervolume. Lower is better in each.

Letters: `P` points, `M` objectives.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from objectives.products import Floats


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether `a` is nowhere worse than `b` and somewhere better.

    Example:
        >>> dominates((1, 2), (1, 3)), dominates((1, 3), (2, 1))
        (True, False)
    """
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def front(points: ArrayLike) -> tuple[int, ...]:
    """Indices of the points [P, M] that no other dominates, ascending (equal points all stay; NaN never does)."""
    table = _table(points)
    no_worse = (table[:, None] <= table[None]).all(axis=2)  # [P, P]: row is nowhere worse than column
    dominated = (no_worse & ~no_worse.T).any(axis=0)
    return tuple(int(i) for i in np.flatnonzero(~dominated & ~np.isnan(table).any(axis=1)))


def hypervolume(points: ArrayLike, reference: Sequence[float]) -> float:
    """Volume that the points [P, M] dominate below the reference point [M] (Zitzler & Thiele 1998).

    Exact, by slicing along the last objective: made for two or three objectives and some hundred points.
    Points that are not better than the reference in every objective add nothing.

    Raises:
        ValueError: If the points do not have as many objectives as the reference.
    """
    table, corner = _table(points), np.asarray(reference, dtype=np.float64)
    if table.size and table.shape[1] != len(corner):
        raise ValueError(f"hypervolume: the reference has {len(corner)} objectives, the points have {table.shape[1]}")
    if not table.size:
        return 0.0
    table = table[(table < corner).all(axis=1)]
    return _volume(table[list(front(table))], corner)


def _volume(table: Floats, corner: Floats) -> float:
    if not len(table):
        return 0.0
    if table.shape[1] == 1:
        return float(corner[0] - table.min())
    table = table[np.argsort(table[:, -1], kind="stable")]
    heights = np.diff(table[:, -1], append=corner[-1])  # slice p holds the points 0..p
    return sum(float(h) * _volume(table[: p + 1, :-1], corner[:-1]) for p, h in enumerate(heights) if h > 0)


def _table(points: ArrayLike) -> Floats:
    table = np.asarray(points, dtype=np.float64)
    if table.size and table.ndim != 2:
        raise ValueError(f"points: expected a table [points, objectives], got shape {table.shape}")
    return table if table.size else table.reshape(0, 0)
