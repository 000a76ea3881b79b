"""Simulated annealing."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from autoprune.allocation import uniform
from autoprune.problem import Trial
from autoprune.strategies.encoded import Encoded
from search_spaces.encodings import Floats


class Annealing(Encoded):
    """Simulated annealing over an encoding (Kirkpatrick et al. 1983, https://doi.org/10.1126/science.220.4598.671).

    The chain starts at the best of the first few trials and goes through the others by number, whoever proposed them: a
    better one is accepted, one that is worse by `d` with probability `exp(-d / T)`. The next candidate is a neighbour
    of where the chain stands; with several workers some are neighbours of where it stood before.

    NNI's pruner (https://github.com/microsoft/nni, version 2.10) cools from 100 to 20 while its accuracies lie in
    [0, 1], so it accepts everything. Here the temperature starts in the unit of the losses: a fraction of how far the
    first ones lie from each other (the median, as abandoned candidates lie far off), and the steps shrink along with
    it.
    """

    name = "annealing"
    starts = 5  # trials before there is a chain: the warm starts, or neighbours of the uniform allocation
    early = 16  # trials whose losses give the unit of the temperature
    hot, cold = 0.3, 0.003  # first and last temperature, in that unit; cools geometrically
    share, fewest = 0.15, 2  # of the groups that move
    first_step, last_step = 0.5, 0.1  # of a move, as a fraction of a group's range

    @cached_property
    def _drawn(self) -> dict[int, float]:
        return {}

    def point(self, number: int, rng: np.random.Generator) -> Floats:
        """A neighbour of the trial where the chain stands."""
        groups = len(self.problem.space.groups)
        here = self.here()
        if here is None or len(self.scored()) < self.starts:
            return self.encoding.mutate(self.encoding.encode(uniform(self.problem)), rng, groups=groups, step=0.3)
        step = _between(self.first_step, self.last_step, number / self.num_trials)
        few = max(self.fewest, round(self.share * groups))
        return self.encoding.mutate(self.at(here), rng, groups=few, step=step)

    def here(self) -> Trial | None:
        """Where the chain stands after all trials told; None before the first with a loss."""
        trials = self.scored()
        unit = _spread([t.loss for t in trials[: self.early]])
        here = min(trials[: self.starts], key=lambda t: (t.loss, t.number), default=None)
        for trial in trials[self.starts :]:
            temperature = unit * _between(self.hot, self.cold, trial.number / self.num_trials)
            if here is None or trial.loss - here.loss <= temperature * self._luck(trial.number):
                here = trial
        return here

    def _luck(self, number: int) -> float:
        """Drawn once per trial: u < exp(-d / T) just where d < -T log(u)."""
        if number not in self._drawn:
            self._drawn[number] = float(np.random.default_rng([self.seed, number, 1]).exponential())
        return self._drawn[number]


def _spread(losses: list[float]) -> float:
    """The median absolute difference between two of the losses; 0 for fewer than two."""
    table = np.array(losses)
    pairs = np.abs(table[:, None] - table)[np.triu_indices(len(table), 1)]
    return float(np.median(pairs)) if len(pairs) else 0.0


def _between(first: float, last: float, progress: float) -> float:
    """From first to last, geometrically, as progress goes from 0 to 1 (and no further)."""
    return float(first * (last / first) ** min(1.0, progress))
