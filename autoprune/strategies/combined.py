"""Closed-form rules to begin with, evolution to learn what they get wrong."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from autoprune.allocation import exemplars, knapsack, uniform
from autoprune.strategies.layer_compensation import LayerCompensation
from search_spaces.encodings import Floats


class Combined(LayerCompensation):
    """Begins with the answers of three closed-form rules and their mixtures, then improves the best by evolution.

    The rules: how many filters can stand for all others (EPruner), the most score for the budget (a knapsack), and the
    same share everywhere. A step of the evolution (LeGR) shifts how early the units of some groups go, compared with
    those of the others.

    Three witnesses of how much a group needs: how many of its filters can stand for all (`allocation.exemplars`: the
    weights' redundancy), what the criterion's scores say per cost (`allocation.knapsack`), and that nothing is known
    (`allocation.uniform`). Each is a point of the encoding, the shifts that make the global ranking reproduce its
    widths, so they can be mixed there: the first trials are the exemplar counts, their middle with either of the
    others, and the middle of all three. The best of these and of whatever warm starts were told breeds: ageing
    evolution over scale and shift per group, with steps that shrink, as in `layer_compensation`. Of the population of
    24 the best of 16 is the parent instead of 8, as the starts are good and far apart. Each candidate is
    decoded by one threshold that meets the budgets and projected on them.

    Sources: Lin et al. 2021, https://arxiv.org/abs/2101.07985; Chin et al. 2020, https://arxiv.org/abs/1904.12368;
    the combination is this project's own. With `--encoding shift` it is LcP that learns, with `--encoding exemplars`
    the preferences themselves.
    """

    name = "combined"
    needs = frozenset({"distances"})
    sample = 16

    def point(self, number: int, rng: np.random.Generator) -> Floats:
        """The mixtures first, then children."""
        turn = number - self.begin
        return self.starts[turn] if 0 <= turn < len(self.starts) else super().point(number, rng)

    def first(self, number: int, rng: np.random.Generator) -> Floats:
        """Far from the exemplar counts, where nothing has succeeded yet."""
        return self.encoding.mutate(self.starts[0], rng, groups=len(self.problem.space.groups), step=1.0)

    @cached_property
    def starts(self) -> tuple[Floats, ...]:
        """Points [D]: the exemplar counts, half of them with the knapsack, with the uniform shares, a third of each."""
        redundancy, worth, even = (self.encoding.encode(f(self.problem)) for f in (exemplars, knapsack, uniform))
        return redundancy, (redundancy + worth) / 2, (redundancy + even) / 2, (redundancy + worth + even) / 3
