"""The groups as steps of a walk: what an agent sees before it decides a group, and how far it may go.

Letters: `G` groups, `K` budgets, `B` candidates.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autoprune.problem import Problem
from search_spaces import Axis, Layer
from search_spaces.encodings import ZERO, Floats

STATE = 11  # numbers of a state


class Walk:
    """Decides the groups one after the other, as AMC does (He et al. 2018, https://arxiv.org/abs/1802.03494).

    The state of a group, all in [0, 1] (those of the layer min-max normalised over the groups): index; units n;
    channels c that its first maker reads; side h of the maker's output; side w of the output of its first reader;
    stride h / w between them; kernel area; cost; then what changes on the way: the cost reduced so far, the rest that
    may still be reduced, and the ratio kept of the group before.

    A group may have several layers: the first that makes it and the first that reads it stand for the others, but the
    cost is that of all of them, what the group's floor would save. A cost is a share of the dense network's, the mean
    over the budgets (without a budget: the MACs).

    Args:
        problem: Space and budgets.
    """

    def __init__(self, problem: Problem) -> None:
        self._space, self._fits = problem.space, problem.feasibility.fits
        self._choices = [g.choices() for g in problem.space.groups]
        self._may = np.array([g.floor == 0 for g in problem.space.groups])
        self._floor, self._full = np.array(problem.space.floor), np.array(problem.space.full)
        names = list(problem.feasibility.limits) or ["macs"]
        self._costs = [problem.feasibility.costs[n] for n in names]
        self._dense = [float(np.asarray(c(self._full[None].astype(np.float64)))[0]) or 1.0 for c in self._costs]
        groups = len(self._full)
        alone = np.where(np.eye(groups, dtype=bool), self._floor, self._full)  # row g: only group g at its floor
        about = [[g, *self._layers(g)] for g in range(groups)]
        self.fixed = normalised(np.column_stack([np.array(about, dtype=np.float64), 1 - self.share(alone)]))  # [G, 8]

    def share(self, table: NDArray[np.int64]) -> Floats:
        """The costs of the candidates [B, G] as shares of the dense network's: [B]."""
        candidates = table.astype(np.float64)
        shares = [np.asarray(c(candidates)) / dense for c, dense in zip(self._costs, self._dense, strict=True)]
        return np.asarray(np.mean(shares, axis=0))

    def states(self, widths: Sequence[int], until: int | None = None) -> Floats:
        """The states [G, 11] on the way to `widths`; only those of the groups up to `until` if it is told.

        Args:
            widths: At least those of the groups before `until`.
            until: Number of a group.
        """
        groups = len(self._full)
        rows = np.arange(groups) if until is None else np.array([until])
        decided = np.arange(groups) < rows[:, None]
        known = self._full.copy()
        known[: len(widths)] = widths
        high = self.share(np.where(decided, known, self._full))
        low = self.share(np.where(decided, known, self._floor))
        ratios = known / self._full
        before = np.where(rows > 0, ratios[rows - 1], 1.0)
        return np.column_stack([self.fixed[rows], 1 - high, high - low, before])

    def step(self, widths: Sequence[int], ratio: float) -> int:
        """The width of the next group: `ratio` of it, rounded up, but no more than the wall allows.

        The wall (the paper's algorithm 1, without its linear formula): the widest choice that fits every budget with
        all later groups at their floor (where a latency falls as a width grows: below the first that does not fit).

        Args:
            widths: Of the groups before.
            ratio: To keep of this one; where it may vanish, the lower end of [0, 1] is an action of 0.
        """
        at = len(widths)
        choices = self._choices[at]
        if self._may[at]:
            gone = self._space.settled((*widths, *self._full[at:].tolist()))[at] == 0
            ratio = 0.0 if gone or ratio < ZERO else max(1e-6, (ratio - ZERO) / (1 - ZERO))
        wished = bisect.bisect_left(choices, ratio * choices[-1] - 1e-9)
        table = np.tile(np.array([*widths, *self._floor[at:]]), (wished + 1, 1))
        table[:, at] = choices[: wished + 1]
        outside = np.flatnonzero(~self._fits(table[1:]))  # the floor itself must do
        return choices[int(outside[0]) if len(outside) else wished]

    def ratios(self, widths: Sequence[int]) -> Floats:
        """[G] the actions that lead to `widths`."""
        shares = np.array(widths) / self._full
        return np.asarray(np.where(self._may, np.where(shares > 0, ZERO + (1 - ZERO) * shares, ZERO / 2), shares))

    def _layers(self, group: int) -> tuple[float, ...]:
        """n, c, h, w, stride and kernel of a group."""

        def lives(axis: Axis) -> bool:
            return any(g == group for g, _ in axis.terms)

        size = float(self._full[group])
        touching = [x for x in self._space.layers if lives(x.makes) or lives(x.reads)]
        if not touching:  # bare parameters
            return size, 0.0, 0.0, 0.0, 1.0, 0.0
        maker: Layer = next((x for x in touching if lives(x.makes)), touching[0])
        reader: Layer = next((x for x in touching if lives(x.reads)), touching[-1])
        height, width = math.sqrt(maker.pixels), math.sqrt(reader.pixels)
        return size, float(maker.reads.size), height, width, height / width, float(maker.kernel)


def normalised(features: Floats) -> Floats:
    """Columns [G, F] moved and scaled to [0, 1]; 0 where all are equal."""
    low, high = features.min(axis=0), features.max(axis=0)
    return np.asarray((features - low) / np.where(high > low, high - low, 1.0))
