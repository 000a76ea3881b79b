"""Optuna's tree-structured Parzen estimator over an encoding."""

from __future__ import annotations

import numpy as np
import optuna

from autoprune.allocation import uniform
from autoprune.problem import Problem
from autoprune.strategies.encoded import Encoded
from autoprune.strategies.moves import tournament
from autoprune.strategies.optuna_study import TrialStudy
from search_spaces.encodings import Encoding, Floats


class TPE(Encoded):
    """Multivariate TPE (Bergstra et al. 2011; Optuna, Akiba et al. 2019, https://arxiv.org/abs/1907.10902).

    Made again for each question from the trials told, with a seed of its own: Optuna's samplers, re-created with the
    same seed, would repeat their stream. Abandoned trials count with their estimated loss, failed ones as bad.

    Args:
        problem: Space, budgets and scores.
        seed: Of all draws.
        num_trials: Not used: TPE has no schedule.
        encoding: What the coordinates mean; `Ratios` unless told otherwise.
    """

    name = "tpe"
    startup = 16  # neighbours of what is known before the estimator has enough to learn from

    def __init__(
        self, problem: Problem, *, seed: int = 0, num_trials: int = 100, encoding: str | Encoding = ""
    ) -> None:
        super().__init__(problem, seed=seed, num_trials=num_trials, encoding=encoding)
        self._study = TrialStudy(self.encoding.names, self.at)

    def point(self, number: int, rng: np.random.Generator) -> Floats:
        """The point of the largest expected improvement among a few drawn."""
        told = [t for t in self.trials if not t.probe]
        if len(told) < self.startup:
            scored = self.scored()
            near = self.at(tournament(scored, 2, rng)) if scored else self.encoding.encode(uniform(self.problem))
            groups = len(self.problem.space.groups)
            return self.encoding.mutate(near, rng, groups=groups, step=0.15)
        sampler = optuna.samplers.TPESampler(
            multivariate=True, constant_liar=False, seed=int(rng.integers(2**32)), n_startup_trials=1
        )
        return self._study.ask(told, sampler)
