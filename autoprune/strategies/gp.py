"""Bayesian optimisation with a Gaussian process."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray

from autoprune.allocation import uniform
from autoprune.problem import Problem, Trial, TrialState
from autoprune.strategies.encoded import Encoded
from autoprune.strategies.optuna_study import TrialStudy
from search_spaces import Widths
from search_spaces.encodings import Encoding, Floats, Ratios

MOST = 200  # planned trials: the cost of a question grows with their cube


class GP(Encoded):
    """A Gaussian process over the kept ratios and its expected improvement (Jones et al. 1998), by Optuna's GPSampler.

    Optuna looks for the largest expected improvement in the whole unit cube, where it lies outside the budgets, and the
    projection would move it to who knows where. Here the candidates are neighbours of the best trials in the encoding,
    all of them inside the budgets; the process (Matern 5/2, a length scale per group) sees their widths whatever the
    encoding. Made again for each question, with the question's own seed.

    Args:
        problem: Space, budgets and scores.
        seed: Of all draws.
        num_trials: How many evaluations the search plans, at most 200.
        encoding: In which the neighbours are made; `Ratios` unless told otherwise.

    Raises:
        ValueError: If more trials are planned.
    """

    name = "gp"
    startup = 8  # neighbours of the uniform allocation and of what is known, before there is much to learn from
    elite = 8  # trials whose neighbours are candidates
    pool = 96  # candidates
    groups = 2, 4  # that move, least and most: with one, workers would often be given the same candidate
    steps = 0.02, 0.4  # least and largest size of a move

    def __init__(
        self, problem: Problem, *, seed: int = 0, num_trials: int = 100, encoding: str | Encoding = ""
    ) -> None:
        if num_trials > MOST:
            raise ValueError(
                f"strategy 'gp': plans for at most {MOST} trials, got {num_trials}: a Gaussian process costs the cube "
                "of their number (0.3 s a question at 90, 0.6 s at 200, on one core); choose tpe, cmaes or evolution"
            )
        super().__init__(problem, seed=seed, num_trials=num_trials, encoding=encoding)
        self._ratios = Ratios(problem.space)

    def point(self, number: int, rng: np.random.Generator) -> Floats:
        """The neighbour with the largest expected improvement."""
        best = sorted(self.scored(), key=lambda t: (t.loss, t.number))[: self.elite]
        if len(self.scored()) < self.startup:
            near = self.at(best[0]) if best else self.encoding.encode(uniform(self.problem))
            return self.encoding.mutate(near, rng, groups=len(self.problem.space.groups), step=0.2)
        candidates = self.candidates(best, rng)
        widths = np.array([self._ratios.encode(w) for w in candidates])
        study = TrialStudy(self._ratios.names, lambda t: self._ratios.encode(t.widths))
        sampler = _Among(widths, seed=int(rng.integers(2**32)))
        chosen = study.ask(_levelled([t for t in self.trials if not t.probe]), sampler)
        return list(candidates.values())[int(np.abs(widths - chosen).sum(axis=1).argmin())]

    def candidates(self, best: list[Trial], rng: np.random.Generator) -> dict[Widths, Floats]:
        """Feasible neighbours of the best trials, the better the more, and their points [D]."""
        found: dict[Widths, Floats] = {}
        points = [self.at(t) for t in best]
        least, largest = np.log(self.steps)
        for _ in range(self.pool):
            parent = points[int(len(points) * rng.random() ** 2)]
            groups = int(rng.integers(self.groups[0], self.groups[1] + 1))
            step = float(np.exp(rng.uniform(least, largest)))
            x = self.encoding.mutate(parent, rng, groups=groups, step=step)
            widths = self.problem.project(self.encoding.decode(x, self.problem.feasibility.fits))
            found.setdefault(widths, x)
        return {w: x for w, x in found.items() if w not in self._known} or found


class _Among(optuna.samplers.GPSampler):
    """Optuna's sampler, confined to the points [N, D]."""

    def __init__(self, points: Floats, seed: int) -> None:
        super().__init__(seed=seed, n_startup_trials=1)
        self._points = points

    def _optimize_acqf(self, acqf: Any, best_params: NDArray[np.float64] | None) -> Floats:
        """The point with the largest acquisition; Optuna leaves this method to be overridden."""
        return np.asarray(self._points[int(np.argmax(acqf.eval_acqf_no_grad(self._points)))])


def _levelled(trials: list[Trial]) -> list[Trial]:
    """The trials with losses on a scale that is linear near the best and logarithmic far off.

    Losses of untrained networks spread over orders of magnitude, and a normal process would explain nothing else.
    Failed trials count as the worst.
    """
    losses = np.array([t.loss for t in trials])
    losses[np.isinf(losses)] = losses[np.isfinite(losses)].max()
    above = losses - losses.min()
    levels = np.log1p(above / (np.median(above) or 1.0))
    return [
        replace(t, state=TrialState.COMPLETE, metrics={"loss": float(level)})
        for t, level in zip(trials, levels, strict=True)
    ]
