"""The trials told to a strategy, as an Optuna study that its samplers can learn from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from autoprune.problem import Trial
from search_spaces.encodings import Floats


class TrialStudy:
    """A study in memory that follows the trials of a strategy; only new ones are added.

    Args:
        names: Of the coordinates.
        at: The point [D] of a trial; clipped to the unit cube.
    """

    def __init__(self, names: Sequence[str], at: Callable[[Trial], Floats]) -> None:
        self._space: dict[str, BaseDistribution] = {name: FloatDistribution(0, 1) for name in names}
        self._at = at
        self._told: list[Trial] = []  # what the storage holds
        self._storage = optuna.storages.InMemoryStorage()

    def ask(self, trials: Sequence[Trial], sampler: BaseSampler) -> Floats:
        """The point [D] that a sampler answers to these trials, in their order; a failed one is infinitely bad."""
        if not self._told or any(a is not b for a, b in zip_longest(self._told, trials[: len(self._told)])):
            self._told, self._storage = [], optuna.storages.InMemoryStorage()
            with _quiet("optuna.storages._in_memory"):
                self._storage.create_new_study([StudyDirection.MINIMIZE], "trials")
        study = optuna.Study("trials", self._storage, sampler=sampler)
        for trial in trials[len(self._told) :]:
            params = dict(zip(self._space, map(float, np.clip(self._at(trial), 0, 1)), strict=True))
            study.add_trial(create_trial(params=params, distributions=self._space, value=trial.loss))
            self._told.append(trial)
        question = study.ask(self._space)
        study.tell(question, state=TrialState.FAIL)  # what fails is ignored by samplers: the study is as before
        return np.array([question.params[name] for name in self._space])


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Optuna announces each new study; this one is no news to the user."""
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
