"""A learnt global ranking: ageing evolution over one scale and one shift per group."""

from __future__ import annotations

import numpy as np

from autoprune.strategies.evolution import Evolution
from search_spaces.encodings import Floats


class LayerCompensation(Evolution):
    """LeGR: layer-compensated global ranking (Chin et al. 2020, https://arxiv.org/abs/1904.12368).

    Units are ranked by `scale * (score / mean + shift)` over the whole network and one threshold meets the budget; the
    genes are a log scale and a shift per group. As published, a tenth of the groups mutates with an amplitude that
    falls from 1 to 0.2; the published population 64 and sample 16 (of 400 evaluations) are smaller here, for about 90.
    What was learnt at one budget can be decoded at another (`autoprune export --budget`).

    Differs from the published code (https://github.com/cmu-enyac/LeGR) where that goes wrong: at least one group is
    mutated however few there are; the shift's noise is in units of the spread of its group's normalised scores and is
    annealed too; nothing is lost when every loss is large; and a told candidate without genes stands for those with
    scale 1 that give its widths. `legr` is the published form.
    """

    name = "layer_compensation"
    default = "compensation"
    population = 24
    sample = 8
    share, fewest = 0.1, 1

    def first(self, number: int, rng: np.random.Generator) -> Floats:
        """The identity (trial 0) or a random ranking: a log-normal scale, a shift as large as the scores' spread."""
        middle = np.full(self.encoding.dim, 0.5)
        every = len(self.problem.space.groups)
        return self.encoding.mutate(middle, rng, groups=every, step=1.0) if number else middle

    def step(self, progress: float) -> float:
        """From 1 to 0.2."""
        return 1 - 0.8 * progress
