"""The moves that strategies share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoprune.problem import Trial


def tournament(population: Sequence[Trial], size: int, rng: np.random.Generator) -> Trial:
    """The best of `size` members drawn with replacement (Real et al. 2019); of equal ones the older."""
    drawn = [population[int(i)] for i in rng.integers(len(population), size=size)]
    return min(drawn, key=lambda t: (t.loss, t.number))
