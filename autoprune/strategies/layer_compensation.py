"""A learnt global ranking: ageing evolution over one scale and one shift per group."""

from __future__ import annotations

import numpy as np

from autoprune.problem import Problem
from autoprune.strategies.moves import tournament
from autoprune.strategies.strategy import Strategy
from search_spaces import Widths, encodings
from search_spaces.encodings import Floats


class LayerCompensation(Strategy):
    """LeGR: layer-compensated global ranking (Chin et al. 2020, https://arxiv.org/abs/1904.12368).

    The genes are a log scale and a shift per group; units are ranked by `scale * (score / mean + shift)` over the whole
    network and one threshold meets the budget. Published: population 64, sample 16, 400 evaluations, a tenth of the
    layers mutated with an amplitude that falls from 1 to 0.2; population and sample are scaled to `num_trials` here.

    Differs from the published code where that goes wrong (METHODS 2.1): at least one group is mutated however few
    there are; the shift is in units of the normalised score of its group and its noise is annealed too; nothing is
    lost when every loss is large; and a told candidate, whoever proposed it, is represented by the theta with
    scale 1 that gives its widths. At one budget a width depends on one number per group, so nothing is lost by that.
    """

    name = "layer_compensation"

    def __init__(self, problem: Problem, *, seed: int = 0, num_trials: int = 100) -> None:
        super().__init__(problem, seed=seed, num_trials=num_trials)
        self.encoding = encodings.LayerCompensation(problem.space, problem.scores)
        self.population = max(8, round(64 / 400 * num_trials))
        self.sample = max(2, self.population // 4)
        self.spread = np.array([s.std() for s in self.encoding.ranking.ascending]).clip(min=1e-3)  # [G] of the scores

    def ask(self, number: int) -> Widths:
        """A child of the population; at first a random theta."""
        rng = self.rng(number)
        members = self.scored()[-self.population :]
        if len(members) < 2:
            theta = self._noise(rng) if number else np.zeros((2, len(self.spread)))
        else:
            theta = self.encoding.theta(tournament(members, self.sample, rng).widths)
            groups = max(1, round(0.1 * len(self.spread)))
            moved = rng.choice(len(self.spread), size=groups, replace=False)
            amplitude = 1 - 0.8 * min(1.0, number / self.num_trials)
            theta[:, moved] += amplitude * self._noise(rng)[:, moved]
        widths = self.encoding.ranking.cut(np.exp(theta[0]), theta[1], self.problem.feasibility.fits)
        return self.fresh(widths, rng)

    def _noise(self, rng: np.random.Generator) -> Floats:
        """[2, G] a standard log-normal factor, and a shift as large as the spread of the group's scores."""
        return np.asarray(rng.standard_normal((2, len(self.spread))) * [np.ones_like(self.spread), self.spread])
