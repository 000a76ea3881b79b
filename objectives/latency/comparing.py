"""A network beside the dense one on the device itself: the fact that a prediction is held against."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, stdtrit

from objectives.latency.backend import Backend, Build
from objectives.latency.timing import quietest, rounds
from objectives.products import Floats
from search_spaces import Widths

LEAST, MOST = 5, 15  # passes
CALM = 0.01  # of the share: passes end when twice its standard error is no more,
FINEST = 0.005  # and nobody believes less
_QUICK_S = 5.0  # networks that take longer to load are loaded once


@dataclass(frozen=True)
class Comparison:
    """What a network takes beside the dense one.

    Attributes:
        dense_ms: Of the dense network: the median over the passes of its quickest run in a pass.
        dense_spread_ms: Half the interquartile range of the same.
        pruned_ms: Of the other network, likewise.
        pruned_spread_ms: Likewise.
        share: What it takes of the dense network's time: the median over the passes.
        share_error: Standard error of the share; at least half of what lies between the share and the quotient of the
            two medians, which are the same on a machine that keeps its pace.
        passes: How many.
    """

    dense_ms: float
    dense_spread_ms: float
    pruned_ms: float
    pruned_spread_ms: float
    share: float
    share_error: float
    passes: int

    @property
    def upper(self) -> float:
        """The share that is surely not exceeded: two standard errors above."""
        return self.share + max(2 * self.share_error, FINEST * self.share)

    @classmethod
    def of(cls, took: Floats) -> Comparison:
        """From the quickest runs [passes, 2] of the dense and the other network."""
        low, median, high = np.quantile(took, [0.25, 0.5, 0.75], axis=0)
        spread = (high - low) / 2
        shares = took[:, 1] / took[:, 0]
        share, count = np.median(shares), len(shares)
        # Of a median, for errors that are normal but for a few passes in which the machine was busy: by the quartiles,
        # which those do not move; of few passes they lie too near. Twice it is Student's bound.
        wide = np.subtract(*np.quantile(shares, [0.75, 0.25])) / 1.349 * (1 + 3 / count)
        error = 1.2533 * wide / np.sqrt(count) * stdtrit(count - 1, ndtr(2)) / 2 if count > 1 else np.inf
        error = max(error, abs(share - median[1] / median[0]) / 2)
        return cls(
            float(median[0]), float(spread[0]), float(median[1]), float(spread[1]),
            float(share), float(error), len(took),
        )  # fmt: skip


def compare(backend: Backend, build: Build, dense: Widths, widths: Widths) -> Comparison:
    """Measure a network beside the dense one, in passes, until the share is known well enough.

    Both are loaded anew for each pass: where their weights come to lie in memory alone changes what they take.

    Args:
        backend: Where; `backend.ready()` must be entered.
        build: Makes a network ready to run.
        dense: Widths of the dense network.
        widths: Of the other one.
    """
    took, loads = np.empty((0, 2)), list[float]()
    while len(took) < MOST:
        # A file that was made in the first pass is there in the second.
        if not loads or min(loads) < _QUICK_S or (len(loads) == 1 and not backend.builds):
            started = time.monotonic()
            runs = {"dense": build(dense), "pruned": build(widths)}
            loads.append(time.monotonic() - started)
        table = rounds(runs, max(1, backend.turns // 2), backend.runs)
        took = np.vstack([took, quietest(table)])
        found = Comparison.of(took)
        if len(took) >= LEAST and 2 * found.share_error <= CALM * found.share:
            break
    return found
