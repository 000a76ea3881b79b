"""Ageing evolution."""

from __future__ import annotations

import itertools
from functools import cached_property

import numpy as np

from autoprune.allocation import streams, uniform, without_bottlenecks
from autoprune.problem import Problem, Proposal
from autoprune.strategies.encoded import Encoded
from autoprune.strategies.moves import exchange, tournament
from search_spaces import Widths
from search_spaces.encodings import Floats


class Evolution(Encoded):
    """Regularised evolution over an encoding (Real et al. 2019, https://arxiv.org/abs/1802.01548).

    The population is the last `population` finished trials, whoever proposed them, so the oldest dies first; the best
    of a random sample is the parent; the child has a few groups moved and is projected on the budgets, which moves the
    others a little. The settings are for about 90 evaluations of about 20 groups; the paper had 20,000.

    Two things are this project's own, because losses without training do not compare between kinds of networks. Every
    second child is bred among those without bottlenecks (`allocation.without_bottlenecks`), and has none: two
    populations, each of which gets as far as it can. Of the others one in five is of another kind than its parent
    (`moves.exchange`).
    """

    name = "evolution"
    population = 24
    sample = 10  # of 24 (Real et al.: 25 of 100)
    share, fewest = 0.15, 2  # of the groups that mutate
    other_kind = 0.2  # of the children
    two_populations = True  # every second child has no bottlenecks
    first_step, last_step = 0.3, 0.05  # of a mutation, as a fraction of a group's range

    def point(self, number: int, rng: np.random.Generator) -> Floats:
        """A child of the population, with a step that shrinks as the search goes on."""
        broad = self.is_broad(number)
        youngest = (t for t in reversed(self.scored()) if not broad or self.keeps(t.widths))
        members = [*itertools.islice(youngest, self.population)][::-1]
        if not members:
            return self.first(number, rng)
        parent = tournament(members, self.sample, rng)
        if not broad and streams(self.problem.space) and rng.random() < self.other_kind:
            return self.encoding.encode(self.problem.project(exchange(self.problem.space, parent.widths, rng)))
        step = self.step(min(1.0, number / self.num_trials))
        return self.encoding.mutate(self.at(parent), rng, groups=self.moving(), step=step)

    def propose(self, number: int) -> Proposal:
        """The widths at `point`, projected; without bottlenecks where it is their turn."""
        rng = self.rng(number)
        problem = (self.is_broad(number) and self.broad) or self.problem
        return self.proposal(self.point(number, rng), problem, rng)

    @cached_property
    def broad(self) -> Problem | None:
        """The problem without bottlenecks; None where it would be the same, or the budgets cannot hold then."""
        return without_bottlenecks(self.problem) if self.two_populations and not self.problem.front else None

    def is_broad(self, number: int) -> bool:
        """Whether trial `number` has no bottlenecks."""
        return (number - self.begin) % 2 == 1 and self.broad is not None

    def keeps(self, widths: Widths) -> bool:
        """Whether widths have no bottleneck; a branch that is gone is none."""
        least = (self.broad or self.problem).space.standing.floor
        return all(w == 0 or w >= fewest for w, fewest in zip(widths, least, strict=True))

    def first(self, number: int, rng: np.random.Generator) -> Floats:
        """A point before there is a population: far from the uniform allocation."""
        start = self.encoding.encode(uniform((self.is_broad(number) and self.broad) or self.problem))
        return self.encoding.mutate(start, rng, groups=len(self.problem.space.groups), step=self.first_step)

    def moving(self) -> int:
        """How many groups a mutation moves."""
        return max(self.fewest, round(self.share * len(self.problem.space.groups)))

    def step(self, progress: float) -> float:
        """The size of a mutation at a progress from 0 to 1."""
        return float(self.first_step * (self.last_step / self.first_step) ** progress)
