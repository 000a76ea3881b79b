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
    network and one threshold meets the budget. The oldest of the population dies, the best of a random sample is the
    parent of the next child. Published: population 64, sample 16, 400 evaluations, a tenth of the layers mutated, with
    an amplitude that falls from 1 to 0.2. The settings here are for about 90 evaluations (measured on made-up separable
    losses over 12 and 25 groups, where the published rates end 10 to 20 % higher).

    Differs from the published code where that goes wrong (METHODS 2.1): several groups are mutated however few there
    are; noise is in units of the spread of a group's normalised scores and all of it is annealed; nothing is lost when
    every loss is large; and a told candidate, whoever proposed it, stands for the theta with scale 1 that gives
    its widths. At one budget a width depends on one number per group, so nothing is lost by that.
    """

    name = "layer_compensation"
    population = 24
    sample = 8
    first_step, last_step = 0.7, 0.1  # amplitude of a mutation, in spreads of the group's scores

    def __init__(self, problem: Problem, *, seed: int = 0, num_trials: int = 100) -> None:
        super().__init__(problem, seed=seed, num_trials=num_trials)
        self.encoding = encodings.LayerCompensation(problem.space, problem.scores)
        # The standard deviation of a normal distribution, from the quartiles: Fisher scores have long tails.
        quartiles = [np.quantile(s, (0.25, 0.75)) for s in self.encoding.ranking.ascending]
        self.spread: Floats = np.array([(high - low) / 1.35 for low, high in quartiles]).clip(min=1e-3)  # [G]

    def ask(self, number: int) -> Widths:
        """A child of the population; before there is one, a random theta."""
        rng = self.rng(number)
        noise = rng.standard_normal((2, len(self.spread))) * self.spread
        members = self.scored()[-self.population :]
        if members:
            theta = self.encoding.theta(tournament(members, self.sample, rng).widths)
            groups = min(len(self.spread), max(3, round(0.1 * len(self.spread))))
            moved = rng.choice(len(self.spread), size=groups, replace=False)
            progress = min(1.0, number / self.num_trials)
            theta[:, moved] += self.first_step * (self.last_step / self.first_step) ** progress * noise[:, moved]
        else:
            theta = noise
        widths = self.encoding.ranking.cut(np.exp(theta[0]), theta[1], self.problem.feasibility.fits)
        return self.fresh(widths, rng)
