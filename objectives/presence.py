"""Which layers a candidate has at all, where branches may vanish.

Letters: `B` candidates, `G` groups, `L` layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from objectives.products import Floats
from search_spaces import SearchSpace
from search_spaces.branches.branch import Branch, Vanishing


class Presence:
    """Says of candidates which of some layers they have.

    Args:
        rows: For every branch its groups, its causes, and the numbers of the layers that go with it.
        num_groups: `G`.
        num_layers: `L`.
    """

    def __init__(self, rows: Sequence[Any], num_groups: int, num_layers: int) -> None:
        self.rows = [[list(groups), [list(c) for c in causes], list(layers)] for groups, causes, layers in rows]
        branches = [Branch("", tuple(g), tuple(map(tuple, causes)), ()) for g, causes, _ in self.rows]
        self._vanishing = Vanishing(branches, num_groups)
        self._layers = np.zeros((len(self.rows), num_layers))
        for number, (_, _, layers) in enumerate(self.rows):
            self._layers[number, layers] = 1

    @classmethod
    def of(cls, space: SearchSpace, layers: Sequence[str]) -> Presence:
        """Of the layers of these names."""
        branches = space.branches if space.vanishing is not None else ()
        rows = [(b.groups, b.causes, [n for n, name in enumerate(layers) if b.holds(name)]) for b in branches]
        return cls(rows, len(space.groups), len(layers))

    def __call__(self, widths: NDArray[Any]) -> tuple[NDArray[Any], Floats | None]:
        """The candidates [B, G] with 0 for all that goes, and [B, L] 1 for layers that are there; None: all are."""
        if not self.rows or widths.all():
            return widths, None
        settled = self._vanishing.settled(widths)
        gone = self._vanishing.gone(settled).astype(np.float64) @ self._layers > 0
        return settled, np.asarray(1.0 - gone, np.float64)
