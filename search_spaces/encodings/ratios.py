"""The widths themselves as coordinates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from search_spaces.encodings.encoding import Encoding, Fits, Floats, some
from search_spaces.space import SearchSpace, Widths


class Ratios(Encoding):
    """One coordinate per group: 0 is the floor, 1 the full width, the legal widths lie evenly between."""

    def __init__(self, space: SearchSpace) -> None:
        self.names = tuple(g.name for g in space.groups)
        self._space = space
        self._choices = tuple(g.choices() for g in space.groups)
        self._points = tuple({w: i / max(len(c) - 1, 1) for i, w in enumerate(c)} for c in self._choices)

    def decode(self, x: Floats, fits: Fits | None = None) -> Widths:
        """The legal widths; they may be outside the budgets (whoever asks projects them)."""
        inside = np.clip(x, 0, 1).tolist()
        rungs = (round(u * (len(c) - 1)) for u, c in zip(inside, self._choices, strict=True))
        return tuple(c[r] for r, c in zip(rungs, self._choices, strict=True))

    def encode(self, widths: Sequence[int]) -> Floats:
        """The point that decodes to `widths`; 0 for a group without a choice."""
        return np.array([points[w] for w, points in zip(widths, self._points, strict=True)])

    def mutate(self, x: Floats, rng: np.random.Generator, *, groups: int, step: float) -> Floats:
        """See `mutate`."""
        return self.encode(mutate(self._space, self.decode(x), rng, groups=groups, step=step))


def mutate(space: SearchSpace, widths: Widths, rng: np.random.Generator, *, groups: int, step: float) -> Widths:
    """Legal widths that differ from `widths` in up to `groups` groups (not projected on any budget).

    Args:
        space: Legal widths.
        widths: Where to start.
        rng: Draws.
        groups: How many groups move.
        step: Standard deviation of a move, as a fraction of the group's range; at least to the next legal width.
    """
    new = list(widths)
    for g in some(groups, len(new), rng):
        choices = space.groups[g].choices()
        last = len(choices) - 1
        move = rng.normal(0, step) * last
        steps = int(np.sign(move) * max(1, round(abs(move))))
        old = choices.index(widths[g])
        rung = min(max(old + steps, 0), last)
        if rung == old:  # at the end of the range: the other way
            rung = min(max(old - steps, 0), last)
        new[g] = choices[rung]
    return tuple(new)
