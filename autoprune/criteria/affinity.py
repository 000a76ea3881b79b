"""Affinity propagation: which few units of a group can stand for all of them.

Message passing after Frey and Dueck 2007 (https://doi.org/10.1126/science.1136800) with the preferences of EPruner (Lin
et al. 2021, https://arxiv.org/abs/2101.07985). scikit-learn has the algorithm (the tests compare with it), but hides
the messages whose margin is a unit's score here, adds noise against ties, and may answer with no exemplar at all.

Letters: `C` units of a group.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

DAMPING = (0.5, 0.7, 0.9, 0.95)  # more of it where less does not converge
ROUNDS, STABLE = 200, 15  # iterations at each damping; for how many of them the exemplars must stay (scikit-learn's)
LARGEST = 2.0  # factor; EPruner's own ones lie between 0.6 and 0.92
SAMPLE = 512  # units whose counts stand for a larger group's


def exemplars(distances: NDArray[Any], factor: float) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """The units that stand for their neighbours, at least one.

    A unit's preference is `factor` times the median of its similarities (minus squared distances): the larger the
    factor, the fewer exemplars. Of exemplars at distance zero the first counts. If even strong damping leaves none
    (all units equally far from each other), it is the unit that alone would stand best for all. Messages that still
    swing after the last round at the strongest damping, but name some exemplars, are taken as they stand then, without
    a notice: near the answer, not exactly it.

    Args:
        distances: [C, C] squared Euclidean distances, zero on the diagonal.
        factor: EPruner's beta, at least 0.

    Returns:
        Their numbers, rising, and the margins [C] r(k,k) + a(k,k): positive for exemplars.
    """
    if not distances.any():  # one unit, or all the same
        return np.zeros(1, dtype=np.int64), np.zeros(len(distances))
    similarity = -distances
    np.fill_diagonal(similarity, factor * np.median(similarity, axis=0))
    margins = _propagate(similarity)
    found = np.flatnonzero(margins > 0)
    if len(found) == 0:
        return np.array([similarity.sum(axis=0).argmax()]), margins
    twins = np.triu(distances[np.ix_(found, found)] <= 1e-12 * distances.max(), 1).any(axis=0)
    return found[~twins], margins


def departures(distances: NDArray[Any], points: int = 10) -> NDArray[np.float64]:
    """[C] rising: the factors at which the number of exemplars falls below C, C - 1, ..., 1.

    The count is worked out at up to `points` factors, each where it falls most between two known ones, made to fall
    as the factor rises (running minimum), and taken for linear in between. A factor of zero leaves all units; at twice
    the largest one tried none would be left. A group of more than 512 units is judged by 512 of them, evenly spaced:
    of all its units up to a tenth less than told would be left (measured at 1024).
    """
    size = len(distances)
    chosen = np.linspace(0, size - 1, min(size, SAMPLE)).astype(int)
    # Single precision: twice as fast, and exact enough to count.
    table = (distances[np.ix_(chosen, chosen)] / (distances.max() or 1.0)).astype(np.float32)
    enough = max(1, len(table) // 32)  # units: no need to know the curve better
    factors, counts = [0.0, LARGEST], [len(table), len(exemplars(table, LARGEST)[0])]
    for _ in range(points - 1):
        falls = -np.diff(np.minimum.accumulate(counts))
        at = int(falls.argmax())
        if falls[at] <= enough:
            break
        factors.insert(at + 1, (factors[at] + factors[at + 1]) / 2)
        counts.insert(at + 1, len(exemplars(table, factors[at + 1])[0]))
    known = np.append(np.minimum.accumulate(counts), 0) * (size / len(table))
    # Counts are whole numbers, so that a half never meets a plateau of the curve.
    leaving = np.arange(size, dtype=np.float64)[::-1] + 0.5  # C - 1/2, C - 3/2, ..., 1/2
    return np.asarray(np.interp(leaving, known[::-1], np.append(factors, 2 * LARGEST)[::-1]), dtype=np.float64)


def _propagate(similarity: NDArray[Any]) -> NDArray[Any]:
    """The margins [C] once the exemplars are stable (or after the last round), in the precision of [C, C]."""
    everyone = np.arange(len(similarity))
    responsibility, availability = np.zeros_like(similarity), np.zeros_like(similarity)
    fresh = np.empty_like(similarity)
    last, since = np.zeros(len(similarity), dtype=bool), 0
    for iteration in range(ROUNDS * len(DAMPING)):
        damping = DAMPING[iteration // ROUNDS]
        # r(i,k) = s(i,k) - max over k' != k of a(i,k') + s(i,k')
        np.add(availability, similarity, out=fresh)
        first = fresh.argmax(axis=1)
        highest = fresh[everyone, first]
        fresh[everyone, first] = -np.inf
        second = fresh.max(axis=1)
        np.subtract(similarity, highest[:, None], out=fresh)
        fresh[everyone, first] = similarity[everyone, first] - second
        _mix(responsibility, fresh, damping)
        # a(i,k) = min(0, r(k,k) + sum over i' not in {i,k} of max(0, r(i',k))); a(k,k) = the sum alone
        np.maximum(responsibility, 0, out=fresh)
        fresh[everyone, everyone] = responsibility.diagonal()
        np.subtract(fresh.sum(axis=0), fresh, out=fresh)
        own = fresh.diagonal().copy()
        np.minimum(fresh, 0, out=fresh)
        fresh[everyone, everyone] = own
        _mix(availability, fresh, damping)

        chosen = responsibility.diagonal() + availability.diagonal() > 0
        since = since + 1 if (chosen == last).all() else 0
        last = chosen
        if since >= STABLE and last.any():
            break
    return np.asarray(responsibility.diagonal() + availability.diagonal())


def _mix(old: NDArray[Any], new: NDArray[Any], damping: float) -> None:
    """Mix new messages into the old ones, damping * old + (1 - damping) * new, in place (spoils `new`)."""
    old *= damping
    new *= 1 - damping
    old += new
