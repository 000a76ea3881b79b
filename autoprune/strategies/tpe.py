"""A tree-structured Parzen estimator over an encoding."""

from __future__ import annotations

import math

import numpy as np

from autoprune.allocation import uniform
from autoprune.problem import Problem, Trial
from autoprune.strategies.encoded import Encoded
from autoprune.strategies.moves import tournament
from autoprune.strategies.parzen import Parzen
from search_spaces.encodings import Encoding, Floats


class TPE(Encoded):
    """Multivariate TPE (Bergstra et al. 2011, https://papers.nips.cc/paper/4443-algorithms-for-hyper-parameter-optimization).

    Its numbers but `startup` are Optuna's (Akiba et al. 2019, https://arxiv.org/abs/1907.10902).

    The best tenth of the trials told, at most 25, and all others each make a density; of 24 points drawn from the first
    the one where it exceeds the second most is tried. Abandoned trials count with their estimated loss, failed ones as
    bad. (Optuna's own sampler needs a study, which several workers that finish in any order would have made anew for
    each question.)

    Args:
        problem: Space, budgets and scores.
        seed: Of all draws.
        num_trials: Not used: TPE has no schedule.
        encoding: What the coordinates mean; `Ratios` unless told otherwise.
    """

    name = "tpe"
    startup = 16  # neighbours of what is known before the estimator has enough to learn from
    good = 0.1, 25  # share of the trials told, and most of them
    pool = 24  # points drawn

    def __init__(
        self, problem: Problem, *, seed: int = 0, num_trials: int = 100, encoding: str | Encoding = ""
    ) -> None:
        super().__init__(problem, seed=seed, num_trials=num_trials, encoding=encoding)
        self._points: dict[int, tuple[Trial, Floats]] = {}  # number -> trial and its point: encoding takes its time

    def point(self, number: int, rng: np.random.Generator) -> Floats:
        """The point of the largest expected improvement among a few drawn."""
        told = [t for t in self.trials if not t.probe]
        if len(told) < self.startup:
            scored = self.scored()
            near = self.at(tournament(scored, 2, rng)) if scored else self.encoding.encode(uniform(self.problem))
            groups = len(self.problem.space.groups)
            return self.encoding.mutate(near, rng, groups=groups, step=0.15)
        points = np.array([self._point(t) for t in told])
        order = np.argsort([t.loss for t in told], kind="stable")
        count = min(math.ceil(self.good[0] * len(told)), self.good[1])
        good, bad = (Parzen(points[np.sort(part)]) for part in (order[:count], order[count:]))
        drawn = good.draw(rng, self.pool)
        return np.asarray(drawn[int((good.log_density(drawn) - bad.log_density(drawn)).argmax())])

    def _point(self, trial: Trial) -> Floats:
        known = self._points.get(trial.number)
        if known is None or known[0] is not trial:
            known = self._points[trial.number] = trial, np.clip(self.at(trial), 0, 1)
        return known[1]
