"""What an encoding is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from search_spaces.space import Widths

Floats = NDArray[np.float64]
Fits = Callable[[NDArray[np.int64]], NDArray[np.bool_]]  # widths [B, G] -> whether each keeps to every budget [B]


class Encoding(ABC):
    """What the coordinates of a search mean. Coordinate i belongs to group `i % G`.

    Attributes:
        names: One name per coordinate; their number is a multiple of `G`.
    """

    names: tuple[str, ...]

    @property
    def dim(self) -> int:
        """Number of coordinates `D`."""
        return len(self.names)

    @abstractmethod
    def decode(self, x: Floats, fits: Fits) -> Widths:
        """The legal widths at the point `x` [D]; any finite point has some."""

    @abstractmethod
    def encode(self, widths: Sequence[int]) -> Floats:
        """A point [D] that stands for `widths`, in the unit cube where the encoding reaches so far."""

    @abstractmethod
    def mutate(self, x: Floats, rng: np.random.Generator, *, groups: int, step: float) -> Floats:
        """A point [D] that differs from `x` in up to `groups` groups.

        Args:
            x: Where to start; left as it is.
            rng: Draws.
            groups: How many groups move.
            step: Size of a move; 1 is as far as makes sense.
        """


def some(groups: int, total: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Numbers of `groups` different groups (all, if there are fewer)."""
    return np.asarray(rng.choice(total, size=min(groups, total), replace=False))
