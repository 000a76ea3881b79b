"""Ageing evolution over the widths themselves."""

from __future__ import annotations

from autoprune.allocation import uniform
from autoprune.strategies.moves import mutate, tournament
from autoprune.strategies.strategy import Strategy
from search_spaces import Widths


class Evolution(Strategy):
    """Regularised evolution over widths (Real et al. 2019, https://arxiv.org/abs/1802.01548).

    The population is the last `population` finished trials, whoever proposed them, so the oldest dies first; the best
    of a random sample is the parent; the child has a few widths moved and is projected on the budgets, which moves the
    others a little. The settings are for about 90 evaluations of about 20 groups; the paper had 20,000.
    """

    name = "evolution"
    population = 24
    sample = 10  # of 24 (Real et al.: 25 of 100)
    first_step, last_step = 0.3, 0.05  # standard deviation of a mutation, as a fraction of a group's range

    def ask(self, number: int) -> Widths:
        """A child of the population, with a step that shrinks as the search goes on."""
        rng = self.rng(number)
        space = self.problem.space
        members = self.scored()[-self.population :]
        if not members:
            far = mutate(space, uniform(self.problem), rng, groups=len(space.groups), step=self.first_step)
            return self.fresh(far, rng)
        parent = tournament(members, self.sample, rng)
        progress = min(1.0, number / self.num_trials)
        step = self.first_step * (self.last_step / self.first_step) ** progress
        groups = max(2, round(0.15 * len(space.groups)))
        return self.fresh(mutate(space, parent.widths, rng, groups=groups, step=step), rng)
