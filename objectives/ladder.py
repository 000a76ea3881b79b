"""The legal widths of every group as the rungs of one ladder per group, for arithmetic on whole batches.

Letters: `B` candidates, `G` groups, `L` rungs of the longest ladder. A *rung* is the number of a legal width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from objectives.products import Floats
from search_spaces import ChannelGroup

Ints = NDArray[np.int64]


class Ladder:
    """Legal widths by rung: rung 0 is the floor, `top` the full width.

    Attributes:
        widths: [G, L] legal width of each rung (the full width beyond the top).
        top: [G] number of the last rung.
    """

    def __init__(self, groups: Sequence[ChannelGroup]) -> None:
        choices = [np.array(group.choices(), dtype=np.int64) for group in groups]
        self.top: Ints = np.array([len(c) - 1 for c in choices], dtype=np.int64)
        length = max((len(c) for c in choices), default=1)
        largest = max((int(c[-1]) for c in choices), default=0)
        self.widths: Ints = np.array([np.pad(c, (0, length - len(c)), mode="edge") for c in choices], dtype=np.int64)
        self.widths = self.widths.reshape(len(choices), length)
        steps = np.arange(largest + 1)
        rungs = [np.maximum(np.searchsorted(c, steps, side="right") - 1, 0) for c in choices]
        self._down: Ints = np.array(rungs, dtype=np.int64).reshape(len(choices), largest + 1)
        self._groups = np.arange(len(choices))

    def at(self, rungs: Ints) -> Ints:
        """Widths [..., G] of the rungs [..., G]."""
        return self.widths[self._groups, rungs]

    def down(self, widths: Floats) -> Ints:
        """The highest rung that is not above each width [..., G] (the floor where there is none)."""
        slots = np.clip(widths + 1e-9, 0, self._down.shape[1] - 1).astype(np.int64)  # 1e-9: 2.9999999996 means 3
        return self._down[self._groups, slots]

    def nearest(self, widths: Floats) -> Ints:
        """The rung nearest to each width [..., G] (the lower of two equally near)."""
        low = self.down(widths)
        high = np.minimum(low + 1, self.top)
        return np.where(self.at(high) - widths < widths - self.at(low), high, low)
