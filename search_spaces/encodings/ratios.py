"""The widths themselves as coordinates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from search_spaces.encodings.encoding import Encoding, Fits, Floats, some
from search_spaces.space import SearchSpace, Widths

TOGGLES = 0.25  # how often a mutation opens or closes a branch


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
    return tuple(new) if space.vanishing is None else _opened(space, widths, tuple(new), rng)


def _opened(space: SearchSpace, before: Widths, widths: Widths, rng: np.random.Generator) -> Widths:
    """Moved widths where branches may vanish: what opens one opens all of it, and now and then one is opened or closed.

    Args:
        space: Legal widths.
        before: Of the parent.
        widths: After the move.
        rng: Draws.
    """
    assert space.vanishing is not None
    new = list(widths)
    single = [b for b in space.branches if all(space.groups[g].floor == 0 for g in b.causes[0])]
    if rng.random() < TOGGLES and single:
        branch = single[int(rng.integers(len(single)))]
        if all(before[g] == 0 for g in branch.causes[0]):
            for g in branch.causes[0]:
                new[g] = space.standing.groups[g].clip(space.groups[g].size * rng.uniform(0.1, 1))
        else:
            new = list(space.without(widths, branch))
            before = tuple(new)
    for g, (old, width) in enumerate(zip(before, new, strict=True)):
        if old == 0 and width > 0:
            for h in space.vanishing.needed(g, np.array(new)):
                new[h] = space.standing.groups[h].clip(space.groups[h].size / 2)
    return space.settled(new)
