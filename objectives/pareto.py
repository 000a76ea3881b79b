"""Several objectives at once: dominance, the front, its hypervolume. Lower is better in each.

Letters: `P` points, `M` objectives.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from objectives.parsing import parse
from objectives.products import Floats

MOST_COSTS = 3  # of a front: hypervolumes of more than four objectives take too long


def parse_metrics(texts: Iterable[str]) -> tuple[str, ...]:
    """Read the costs of a front, comma separated or one by one: their metrics, as those of budgets.

    Raises:
        ValueError: If one is unknown, or there are more than `MOST_COSTS`.

    Example:
        >>> parse_metrics(["flops, latency@torch,batch=8", "params"])
        ('macs', 'latency@torch,batch=8,threads=1', 'params')
    """
    names: list[str] = []
    for part in (part.strip() for text in texts for part in text.split(",")):
        if "=" in part and names:  # an option of the latency before it
            names[-1] += f",{part}"
        else:
            names.append(part)
    found = dict.fromkeys(_metric(name) for name in names)
    if len(found) > MOST_COSTS:
        raise ValueError(f"front: at most {MOST_COSTS} costs can be traded off at once, found {len(found)}")
    return tuple(found)


def _metric(name: str) -> str:
    if name.lower() in ("loss", "top1", ""):
        found = f"'{name}' (the loss is an objective already)" if name else "an empty name"
        raise ValueError(f"front: expected costs, e.g. macs,latency@onnxruntime; found {found}")
    if "<" in name:
        raise ValueError(f"front: '{name}': expected a cost without a bound; a bound is a --budget")
    cost, at, where = name.partition("@")
    try:
        return parse(f"{cost}<=100%{at}{where}").metric
    except ValueError as error:
        why = str(error).partition("': ")[2]
        raise ValueError(f"front: '{name}': {why if 'unknown' in why or '@' in name else 'is no cost'}") from error


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
    left = np.flatnonzero(~np.isnan(table).any(axis=1))
    left = left[np.lexsort(table[left].T)] if left.size else left  # whoever dominates a point comes before it
    found = 0
    while found < len(left):  # one turn for each point of the front, not for each of them all
        here, others = table[left[found]], table[left]
        left = left[~((here <= others).all(axis=1) & (here < others).any(axis=1))]
        found += 1
    return tuple(sorted(int(i) for i in left))


def hypervolume(points: ArrayLike, reference: Sequence[float]) -> float:
    """Volume that the points [P, M] dominate below the reference point [M] (Zitzler & Thiele 1998).

    Exact, by slicing along the last objective: made for two to four objectives and some hundred points.
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


def contribution(point: Sequence[float], points: ArrayLike, reference: Sequence[float]) -> float:
    """The hypervolume that `point` [M] adds to that of the points [P, M].

    Raises:
        ValueError: As `hypervolume`.
    """
    table = _table(points)
    alone = hypervolume([point], reference)
    return alone - hypervolume(np.maximum(table, point), reference) if alone and table.size else alone


def growth(points: ArrayLike, reference: Sequence[float]) -> list[float]:
    """The hypervolume after each of the points [P, M], in their order.

    Raises:
        ValueError: As `hypervolume`.
    """
    found: list[float] = []
    known = np.empty((0, len(reference)))
    for point in _table(points):
        more = contribution(point, known, reference)
        if more:
            known = np.vstack([known[(known < point).any(axis=1)], point])  # without those that it beats
        found.append((found[-1] if found else 0.0) + more)
    return found


def _volume(table: Floats, corner: Floats) -> float:
    if not len(table):
        return 0.0
    if table.shape[1] == 1:
        return float(corner[0] - table.min())
    if table.shape[1] == 2:  # strips from one point to the next, as high as the lowest so far leaves
        first, second = table[np.lexsort(table.T[::-1])].T
        return float(np.diff(first, append=corner[0]) @ (corner[1] - np.minimum.accumulate(second)))
    table = table[np.argsort(table[:, -1], kind="stable")]
    heights = np.diff(table[:, -1], append=corner[-1])  # slice p holds the points 0..p
    return sum(float(h) * _volume(table[: p + 1, :-1], corner[:-1]) for p, h in enumerate(heights) if h > 0)


def _table(points: ArrayLike) -> Floats:
    table = np.asarray(points, dtype=np.float64)
    if table.size and table.ndim != 2:
        raise ValueError(f"points: expected a table [points, objectives], got shape {table.shape}")
    return table if table.size else table.reshape(0, 0)
