"""Optuna's tree-structured Parzen estimator over an encoding."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import create_trial

from autoprune.allocation import uniform
from autoprune.problem import Problem, Trial
from autoprune.strategies.moves import mutate, tournament
from autoprune.strategies.strategy import Strategy
from search_spaces import Widths
from search_spaces.encodings import Encoding, Ratios


class TPE(Strategy):
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
        self, problem: Problem, *, seed: int = 0, num_trials: int = 100, encoding: Encoding | None = None
    ) -> None:
        super().__init__(problem, seed=seed, num_trials=num_trials)
        self.encoding = encoding or Ratios(problem.space)
        self._space: dict[str, BaseDistribution] = {n: FloatDistribution(0, 1) for n in self.encoding.names}
        self._told: list[Trial] = []  # what the storage holds
        self._storage = optuna.storages.InMemoryStorage()

    def ask(self, number: int) -> Widths:
        """The candidate of the largest expected improvement among a few drawn."""
        rng = self.rng(number)
        if len(self.trials) < self.startup:
            scored = self.scored()
            near = tournament(scored, 2, rng).widths if scored else uniform(self.problem)
            groups = len(self.problem.space.groups)
            return self.fresh(mutate(self.problem.space, near, rng, groups=groups, step=0.15), rng)
        study = self._study()
        sampler = optuna.samplers.TPESampler(
            multivariate=True, constant_liar=False, seed=int(rng.integers(2**32)), n_startup_trials=1
        )
        question = create_trial(value=0.0)  # stands for the trial asked about; only its number is read
        x = sampler.sample_relative(study, question, self._space)
        point = np.array([x[n] for n in self.encoding.names])
        return self.fresh(self.encoding.decode(point, self.problem.feasibility.fits), rng)

    def _study(self) -> optuna.Study:
        """A study of the trials told, in number order; only those told since the last question are added."""
        if not self._told or any(a is not b for a, b in zip_longest(self._told, self.trials[: len(self._told)])):
            self._told, self._storage = [], optuna.storages.InMemoryStorage()
            with _quiet("optuna.storages._in_memory"):
                self._storage.create_new_study([StudyDirection.MINIMIZE], "tpe")
        study = optuna.Study("tpe", self._storage)
        for trial in self.trials[len(self._told) :]:
            params = dict(zip(self.encoding.names, map(float, self.encoding.encode(trial.widths)), strict=True))
            study.add_trial(create_trial(params=params, distributions=self._space, value=trial.loss))
            self._told.append(trial)
        return study


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Optuna announces each new study; this one is no news to the user."""
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
