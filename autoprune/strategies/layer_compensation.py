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
    parent of the next child. As published, a tenth of the groups mutates with an amplitude that falls from 1 to 0.2;
    the published population 64 and sample 16 (of 400 evaluations) are smaller here, for about 90.

    Differs from the published code where that goes wrong (METHODS 2.1): at least one group is mutated however few there
    are; the shift's noise is in units of the spread of its group's normalised scores and is annealed too; nothing is
    lost when every loss is large; and a told candidate, whoever proposed it, stands for the theta with scale 1 that
    gives its widths. At one budget a width depends on one number per group, so nothing is lost by that.
    """

    name = "layer_compensation"
    population = 24
    sample = 8

    def __init__(self, problem: Problem, *, seed: int = 0, num_trials: int = 100) -> None:
        super().__init__(problem, seed=seed, num_trials=num_trials)
        self.encoding = encodings.LayerCompensation(problem.space, problem.scores)
        # The standard deviation of a normal distribution, from the quartiles: Fisher scores have long tails.
        quartiles = [np.quantile(s, (0.25, 0.75)) for s in self.encoding.ranking.ascending]
        self.spread: Floats = np.array([(high - low) / 1.35 for low, high in quartiles]).clip(min=1e-3)  # [G]

    def ask(self, number: int) -> Widths:
        """A child of the population; before there are two, the identity (trial 0) or a random theta."""
        rng = self.rng(number)
        # A standard log-normal factor, and a shift as large as the spread of the group's scores.
        noise = rng.standard_normal((2, len(self.spread))) * [np.ones_like(self.spread), self.spread]
        members = self.scored()[-self.population :]
        if len(members) >= 2:
            theta = self.encoding.theta(tournament(members, self.sample, rng).widths)
            groups = max(1, round(0.1 * len(self.spread)))
            moved = rng.choice(len(self.spread), size=groups, replace=False)
            amplitude = 1 - 0.8 * min(1.0, number / self.num_trials)
            theta[:, moved] += amplitude * noise[:, moved]
        else:
            theta = noise if number else 0 * noise
        widths = self.encoding.ranking.cut(np.exp(theta[0]), theta[1], self.problem.feasibility.fits)
        return self.fresh(widths, rng)
