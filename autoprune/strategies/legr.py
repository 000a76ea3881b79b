"""LeGR with the settings of its authors."""

from __future__ import annotations

import numpy as np

from autoprune.strategies.layer_compensation import LayerCompensation
from search_spaces.encodings import Floats


class LeGR(LayerCompensation):
    """LeGR as published (Chin et al. 2020, https://arxiv.org/abs/1904.12368; settings from its code, METHODS 2.1).

    `alpha * score + kappa` on the raw scores (the paper's are `--criterion l2`), 64 random rankings first, then the
    best of 16 out of the last 64; its 400 evaluations are the plan, other numbers stretch the amplitude's schedule.
    Kept for comparison; `layer_compensation` says what it does otherwise and why.
    """

    name = "legr"
    default = "affine"
    population = 64
    sample = 16

    def point(self, number: int, rng: np.random.Generator) -> Floats:
        """Random rankings until there are as many trials as the population holds; then children."""
        return self.first(number, rng) if number < self.population else super().point(number, rng)

    def first(self, number: int, rng: np.random.Generator) -> Floats:
        """A random ranking; the last one is the identity."""
        return super().first(0 if number == self.population - 1 else number + 1, rng)
