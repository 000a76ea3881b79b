"""Covariance matrix adaptation over an encoding."""

from __future__ import annotations

import numpy as np

from autoprune.allocation import uniform
from autoprune.strategies.encoded import Encoded
from search_spaces.encodings import Floats


class CMAES(Encoded):
    """CMA-ES (Hansen 2016, https://arxiv.org/abs/1604.00772), by the `cmaes` package that Optuna's sampler uses.

    Optuna's sampler keeps its state in the trials it proposed itself and wants whole generations of these; here trials
    may come from anybody, in any order. So the optimiser is made again for each question: it starts at the best of the
    first trials told (the closed forms), is told the others in generations by number, and draws with the question's
    own seed. A trial is told at the point that its projected widths encode; over an encoding of rankings or preferences
    at its genes, the point it was decoded from before projection (only who has none at what its widths encode). What
    lies outside the unit cube, as the rankings of some closed forms do, counts as on its edge.

    Args:
        problem: Space, budgets and scores.
        seed: Of all draws.
        num_trials: Not used: CMA-ES adapts its own step.
        encoding: What the coordinates mean; `Ratios` unless told otherwise.
    """

    name = "cmaes"
    starts = 5
    sigma = 0.15  # first step, in the unit cube

    def point(self, number: int, rng: np.random.Generator) -> Floats:
        """A draw from the adapted normal distribution."""
        from cmaes import CMA  # imports slowly

        told = [t for t in self.trials if not t.probe]
        first, later = told[: self.starts], told[self.starts :]
        best = min(first, key=lambda t: t.loss, default=None)
        start = self.at(best) if best else self.encoding.encode(uniform(self.problem))
        bounds = np.tile([0.0, 1.0], (self.encoding.dim, 1))
        optimiser = CMA(mean=np.clip(start, 0, 1), sigma=self.sigma, bounds=bounds)
        size = optimiser.population_size
        for begin in range(0, len(later) - size + 1, size):
            generation = later[begin : begin + size]
            # Only the order of the losses counts, so "infinite" is as good as any large number.
            optimiser.tell([(np.clip(self.at(t), 0, 1), min(t.loss, 1e300)) for t in generation])
        optimiser.reseed_rng(int(rng.integers(2**32)))
        return np.asarray(optimiser.ask())
