"""A learnt global ranking: a scale and a shift per group, or the shift alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.encodings.encoding import Encoding, Fits, Floats, some
from search_spaces.encodings.ranking import Ranking, normalised
from search_spaces.space import SearchSpace, Widths


class LayerCompensation(Encoding):
    """A learnt scale and shift per group that make the scores of different groups comparable.

    LeGR (Chin et al. 2020, https://arxiv.org/abs/1904.12368) ranks all units by `alpha * score + kappa`. Here scores
    are divided by their group's mean first and the shift is added before the scale, `alpha * (score / mean + kappa)`:
    a step of kappa then means the same in every group and wherever alpha has gone. At one budget a group's width
    depends on one number, its cut `threshold / alpha - kappa`; alpha and kappa differ in how the cut moves when the
    budget does, so that what was learnt at one budget can be decoded at another.

    Coordinates: per group kappa in [-2, 2], then per group `log(alpha)` in [-2, 2]; the middle of the unit cube is the
    identity. Points outside the cube are as good: the long tails of some scores need them.

    Args:
        space: Legal widths.
        scores: Importance of each unit, per group [C], higher = keep.
    """

    reach = 2.0

    def __init__(self, space: SearchSpace, scores: Sequence[NDArray[Any]]) -> None:
        groups = [g.name for g in space.groups]
        self.names = (*(f"{g}.shift" for g in groups), *(f"{g}.scale" for g in groups))
        self.ranking = Ranking(space, normalised(scores))
        self.spread: Floats = np.array([_spread(s) for s in self.ranking.ascending]).clip(min=1e-3)  # [G]

    def theta(self, x: Floats) -> tuple[Floats, Floats]:
        """Scale [G] and shift [G] at a point [D]."""
        shift, log_scale = np.split(self.reach * (2 * np.asarray(x) - 1), 2)
        return np.exp(np.clip(log_scale, -50, 50)), shift

    def decode(self, x: Floats, fits: Fits) -> Widths:
        """The widths of the lowest threshold that fits."""
        return self.ranking.cut(*self.theta(x), fits)

    def encode(self, widths: Sequence[int]) -> Floats:
        """The point with scale 1 that puts the threshold 1 where it leaves `widths`."""
        shift = 1 - np.array([_between(s, w) for s, w in zip(self.ranking.ascending, widths, strict=True)])
        return np.asarray(np.concatenate([shift, np.zeros(len(shift))])[: self.dim] / self.reach / 2 + 0.5)

    def mutate(self, x: Floats, rng: np.random.Generator, *, groups: int, step: float) -> Floats:
        """LeGR's mutation: scale times a log-normal factor, shift plus as much as the group's scores spread.

        Differs from the published code in that `step` anneals the shift's noise too.
        """
        noise = np.concatenate([self.spread, np.ones_like(self.spread)])[: self.dim] * rng.standard_normal(self.dim)
        moved = np.zeros(len(self.spread), dtype=bool)
        moved[some(groups, len(moved), rng)] = True
        return np.asarray(x + step * noise * np.resize(moved, self.dim) / self.reach / 2)


class Shift(LayerCompensation):
    """The shift alone: LcP, layer-compensated pruning (Chin et al. 2018, https://arxiv.org/abs/1810.00518).

    Published on raw scores; here they are divided by their group's mean first, as in `LayerCompensation`: at one budget
    the same widths are within reach, but the mean acts as a fixed scale when the budget moves.
    """

    def __init__(self, space: SearchSpace, scores: Sequence[NDArray[Any]]) -> None:
        super().__init__(space, scores)
        self.names = self.names[: len(space.groups)]

    def theta(self, x: Floats) -> tuple[Floats, Floats]:
        """Ones [G] and shift [G] at a point [D]."""
        shift = self.reach * (2 * np.asarray(x) - 1)
        return np.ones_like(shift), shift


class Affine(LayerCompensation):
    """`alpha * score + kappa` on the scores as they are, mutated as the authors' code does: LeGR as published.

    Coordinates: per group kappa in [-2, 2] in `unit`, then per group `log(alpha)` in [-2, 2]. The cube is no bound: a
    mutation leaves it where it must.

    Attributes:
        unit: One number that all scores are divided by, which changes neither the ranking nor what a mutation does: the
            mean over the groups of their standard deviation. The cube means nothing in the unit of the scores.
    """

    def __init__(self, space: SearchSpace, scores: Sequence[NDArray[Any]]) -> None:
        super().__init__(space, scores)
        self.unit = float(np.mean([np.std(s) for s in scores])) or 1.0
        self.ranking = Ranking(space, [s / self.unit for s in scores])
        self.spread = np.array([float(np.std(s)) for s in self.ranking.ascending]).clip(min=1e-12)

    def theta(self, x: Floats) -> tuple[Floats, Floats]:
        """Scale [G] and shift [G] at a point [D]: kappa is added after the scale."""
        scale, kappa = super().theta(x)
        return scale, kappa / scale

    def mutate(self, x: Floats, rng: np.random.Generator, *, groups: int, step: float) -> Floats:
        """As published: alpha times exp(N(0, step)), kappa plus N(0, spread) however small `step` is.

        The spread is the standard deviation of the group's scores. The groups are drawn with replacement, so fewer may
        move (one drawn twice moves once); all of them do if `groups` is no less than their number.
        """
        total = len(self.spread)
        moved = np.zeros(total, dtype=bool)
        moved[rng.integers(total, size=groups) if groups < total else slice(None)] = True
        noise = np.concatenate([self.spread, np.full(total, step)]) * rng.standard_normal(self.dim)
        return np.asarray(x + noise * np.resize(moved, self.dim) / self.reach / 2)


def _spread(scores: Floats) -> float:
    """The standard deviation of a normal distribution, from the quartiles: Fisher scores have long tails.

    At least a tenth of their own standard deviation, for groups most of whose units are worth the same.
    """
    low, high = np.quantile(scores, (0.25, 0.75))
    return max(float(high - low) / 1.35, 0.1 * float(np.std(scores)))


def _between(ascending: Floats, width: int) -> float:
    """A cut below the best `width` scores and not below the others (halfway)."""
    removed = len(ascending) - width
    if removed == 0:
        return float(ascending[0] - 0.5 * max(abs(ascending[0]), 1e-6))
    return float((ascending[removed - 1] + ascending[removed]) / 2)
