"""LeGR with the settings of its authors."""

from __future__ import annotations

import numpy as np

from autoprune.strategies.layer_compensation import LayerCompensation
from search_spaces.encodings import Floats


class LeGR(LayerCompensation):
    """LeGR as published (Chin et al. 2020, https://arxiv.org/abs/1904.12368; https://github.com/cmu-enyac/LeGR).

    `alpha * score + kappa` on the raw scores (the paper's are `--criterion l2`), 64 random rankings first, the last one
    the identity; then children of the best of 16, drawn with replacement, out of the last 64. A child has int(0.1 * G)
    groups moved, also drawn with replacement; the noise of log(alpha) falls from 1 to 0.2 over the search, that of
    kappa stays (see `Affine`). Kept for comparison; `layer_compensation` says what it does otherwise and why.

    What remains different:

    - The plan is `num_trials` evaluations, not 400: the noise falls faster in a shorter search, but the 64 random
      rankings stay, so that the 93 proposals of results/benchmarks/policies.md leave 29 children (published: 336).
    - One group moves at least; int(0.1 * G) is 0 below ten groups, and the published children are clones there.
    - Alpha and kappa belong to a group, not to a layer: scores of coupled layers are summed before the map, not after.
    - The threshold is the lowest that fits, and projection fills what it leaves of the budgets and changes widths that
      were tried before. The floor is `--min-keep`, not a tenth of each layer and two units.
    - The loss is that of held-out images at the run's fidelity; the published one is of training images after 0 or 200
      steps (`--fidelity short:200`).
    - Warm starts take the numbers of the first random rankings and are bred from (`--warm-starts none`: none are).
      Failed candidates are nobody's parents.
    """

    name = "legr"
    default = "affine"
    population = 64
    sample = 16
    other_kind = 0.0  # as published
    two_populations = False

    def point(self, number: int, rng: np.random.Generator) -> Floats:
        """Random rankings until there are as many trials as the population holds; then children."""
        return self.first(number, rng) if number < self.population else super().point(number, rng)

    def moving(self) -> int:
        """A tenth of the groups, rounded down."""
        return max(self.fewest, int(self.share * len(self.problem.space.groups)))

    def first(self, number: int, rng: np.random.Generator) -> Floats:
        """A random ranking; the last one is the identity."""
        return super().first(0 if number == self.population - 1 else number + 1, rng)
