"""Bayesian optimisation with a Gaussian process."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from autoprune.allocation import uniform
from autoprune.problem import Problem, Trial
from autoprune.strategies.encoded import Encoded, make_encoding
from autoprune.strategies.process import Kernel, fit, log_improvement
from search_spaces import Widths
from search_spaces.encodings import Encoding, Floats

MOST = 200  # planned trials: the cost of a question grows with their cube


class GP(Encoded):
    """A Gaussian process over the kept ratios and its expected improvement.

    Jones et al. 1998, https://doi.org/10.1023/A:1008306431147 (EGO); its logarithm by Ament et al. 2023,
    https://arxiv.org/abs/2310.20708.

    Kernel and priors are those of Optuna's GPSampler. That one looks for the largest expected improvement in the whole
    unit cube, where it lies outside the budgets, and the projection would move it to who knows where. Here the
    candidates are neighbours of the best trials in the encoding, all of them inside the budgets; the process (Matern
    5/2, a length scale per group) sees their widths whatever the encoding.

    The kernel is fitted again whenever a quarter more trials have finished (in between the process learns from each
    trial, at the same length scales): the fit is most of a question's cost.

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
    pool = 24  # candidates; the projection of each takes a millisecond
    groups = 2, 4  # that move, least and most: with one, workers would often be given the same candidate
    steps = 0.02, 0.4  # least and largest size of a move
    growth = 1.25  # of the trials between two fits of the kernel

    def __init__(
        self, problem: Problem, *, seed: int = 0, num_trials: int = 100, encoding: str | Encoding = ""
    ) -> None:
        if num_trials > MOST:
            raise ValueError(
                f"strategy 'gp': plans for at most {MOST} trials, got {num_trials}: a Gaussian process costs the cube "
                "of their number; choose tpe, cmaes or evolution"
            )
        super().__init__(problem, seed=seed, num_trials=num_trials, encoding=encoding)
        self._ratios = make_encoding("ratios", problem)
        self._fits: dict[int, tuple[list[Trial], Kernel]] = {}  # number of trials -> them, and the kernel

    def point(self, number: int, rng: np.random.Generator) -> Floats:
        """The neighbour with the largest expected improvement."""
        best = sorted(self.scored(), key=lambda t: (t.loss, t.number))[: self.elite]
        if len(self.scored()) < self.startup:
            near = self.at(best[0]) if best else self.encoding.encode(uniform(self.problem))
            return self.encoding.mutate(near, rng, groups=len(self.problem.space.groups), step=0.2)
        candidates = self.candidates(best, rng)
        told = [t for t in self.trials if not t.probe]
        widths = np.array([self._ratios.encode(w) for w in candidates])
        worth = log_improvement(self.kernel(told), self._points(told), _levelled(told), widths)
        return list(candidates.values())[int(worth.argmax())]

    def kernel(self, told: Sequence[Trial]) -> Kernel:
        """The kernel that fits the first of the trials told.

        How many that are grows by a quarter at a time, and leaves out as many as are running: one that comes late
        would change it.
        """
        settled = max(self.startup, len(told) - len(self.running))
        count = int(self.startup * self.growth ** math.floor(math.log(settled / self.startup, self.growth) + 1e-9))
        first = list(told[:count])
        known, kernel = self._fits.get(count, ([], None))
        if kernel is None or len(known) != len(first) or any(a is not b for a, b in zip(known, first, strict=True)):
            kernel = fit(self._points(first), _levelled(first))
            self._fits[count] = first, kernel
        return kernel

    def _points(self, trials: Sequence[Trial]) -> Floats:
        return np.array([self._ratios.encode(t.widths) for t in trials])

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


def _levelled(trials: Sequence[Trial]) -> Floats:
    """Values [N] of mean 0 and variance 1, the larger the better, linear near the best loss, logarithmic far off.

    Losses of untrained networks spread over orders of magnitude, and a normal process would explain nothing else.
    Failed trials count as the worst.
    """
    losses = np.array([t.loss for t in trials])
    losses[np.isinf(losses)] = losses[np.isfinite(losses)].max(initial=0.0)
    above = losses - losses.min()
    values = -np.log1p(above / (np.median(above) or 1.0))
    return np.asarray((values - values.mean()) / (values.std() or 1.0))
