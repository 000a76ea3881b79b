"""Ageing evolution."""

from __future__ import annotations

import numpy as np

from autoprune.allocation import uniform
from autoprune.strategies.encoded import Encoded
from autoprune.strategies.moves import tournament
from search_spaces.encodings import Floats


class Evolution(Encoded):
    """Regularised evolution over an encoding (Real et al. 2019, https://arxiv.org/abs/1802.01548).

    The population is the last `population` finished trials, whoever proposed them, so the oldest dies first; the best
    of a random sample is the parent; the child has a few groups moved and is projected on the budgets, which moves the
    others a little. The settings are for about 90 evaluations of about 20 groups; the paper had 20,000.
    """

    name = "evolution"
    population = 24
    sample = 10  # of 24 (Real et al.: 25 of 100)
    share, fewest = 0.15, 2  # of the groups that mutate
    first_step, last_step = 0.3, 0.05  # of a mutation, as a fraction of a group's range

    def point(self, number: int, rng: np.random.Generator) -> Floats:
        """A child of the population, with a step that shrinks as the search goes on."""
        members = self.scored()[-self.population :]
        if not members:
            return self.first(number, rng)
        parent = tournament(members, self.sample, rng)
        step = self.step(min(1.0, number / self.num_trials))
        return self.encoding.mutate(self.at(parent), rng, groups=self.moving(), step=step)

    def first(self, number: int, rng: np.random.Generator) -> Floats:
        """A point before there is a population: far from the uniform allocation."""
        start = self.encoding.encode(uniform(self.problem))
        return self.encoding.mutate(start, rng, groups=len(self.problem.space.groups), step=self.first_step)

    def moving(self) -> int:
        """How many groups a mutation moves."""
        return max(self.fewest, round(self.share * len(self.problem.space.groups)))

    def step(self, progress: float) -> float:
        """The size of a mutation at a progress from 0 to 1."""
        return float(self.first_step * (self.last_step / self.first_step) ** progress)
