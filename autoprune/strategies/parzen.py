"""Densities of points in the unit cube: where the good ones lie, and where the others.

Letters: `N` points seen, `D` coordinates, `B` points asked.
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp, ndtr, ndtri

from search_spaces.encodings import Floats

RECENT = 25  # points that count fully; older ones the less


class Parzen:
    """A normal distribution around each point and a wide one around the middle, all cut off at the cube's faces.

    Widths, weights and prior as in Optuna's multivariate TPE (Akiba et al. 2019, https://arxiv.org/abs/1907.10902): a
    width is the larger distance to the two neighbours in that coordinate, no less than 1 / min(100, N + 2) of the cube.

    Args:
        points: [N, D] in the unit cube, in the order of their age, the oldest first.
    """

    def __init__(self, points: Floats) -> None:
        count, dim = points.shape
        faces = np.zeros((1, dim)), np.ones((1, dim))
        order = points.argsort(axis=0)
        gaps = np.diff(np.vstack([faces[0], np.take_along_axis(points, order, axis=0), faces[1]]), axis=0)
        sizes = np.maximum(gaps[:-1], gaps[1:])
        if count > 1:  # a face is no neighbour
            sizes[0], sizes[-1] = gaps[1], gaps[-2]
        widths = np.empty_like(sizes)
        np.put_along_axis(widths, order, np.clip(sizes, 1 / min(100, count + 2), 1), axis=0)
        self._means, self._widths = np.vstack([points, np.full((1, dim), 0.5)]), np.vstack([widths, faces[1]])
        weights = np.ones(count + 1)
        if count > RECENT:
            weights[: count - RECENT] = np.linspace(1 / count, 1, count - RECENT)
        self._weights = weights / weights.sum()
        self._low, self._high = ndtr(-self._means / self._widths), ndtr((1 - self._means) / self._widths)

    def log_density(self, x: Floats) -> Floats:
        """[B] at the points [B, D]."""
        close, scaled = self._widths**-2, self._means * self._widths**-2
        squares = x**2 @ close.T - 2 * x @ scaled.T + (self._means * scaled).sum(axis=1)
        norms = np.log(self._widths * (self._high - self._low)).sum(axis=1) + x.shape[1] * np.log(2 * np.pi) / 2
        return np.asarray(logsumexp(np.log(self._weights) - norms - squares / 2, axis=1))

    def draw(self, rng: np.random.Generator, count: int) -> Floats:
        """So many points [B, D]."""
        at = rng.choice(len(self._weights), size=count, p=self._weights)
        low, high = self._low[at], self._high[at]
        x = self._means[at] + self._widths[at] * ndtri(low + rng.random(low.shape) * (high - low))
        return np.asarray(np.clip(x, 0, 1))
