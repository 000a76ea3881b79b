"""Which candidates of a front count: the finalists, the one that is delivered, the one for another budget.

Everything is measured in the unit box: a cost as a share of the dense network's, the loss as a share of the loss of a
network that knows nothing (`Problem.worst`). Its upper corner is the reference point of the hypervolume, so that it
never moves during a run: 0 is a front that is nowhere better than that, 1 would be no loss at no cost.

Letters: `P` trials, `M` costs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autoprune.problem import Problem, Trial, TrialState
from autoprune.schedule import best, ranked
from objectives import Budget, Feasibility, contribution, front, growth
from objectives.latency import Latency
from objectives.products import Floats
from search_spaces import SearchSpace, Widths

LEAST = 1e-4  # of the worst loss: below, no difference counts
HALF = 0.5  # of the dense network in the first cost: what is delivered where no budget says otherwise


@dataclass(frozen=True, eq=False)
class TradeOff:
    """The loss against the costs of a front.

    Attributes:
        metrics: The costs.
        feasibility: Prices them.
        worst: The loss from which a candidate is worth nothing.
        budgeted: Whether the user gave budgets: then the best candidate within them is delivered.
    """

    metrics: tuple[str, ...]
    feasibility: Feasibility
    worst: float
    budgeted: bool = False
    _points: dict[Widths, Floats] = field(default_factory=dict, repr=False)
    _chosen: dict[tuple[int, ...], list[Trial]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, problem: Problem, budgeted: bool) -> TradeOff | None:
        """That of a problem; None if it has one goal only."""
        return cls(problem.front, problem.feasibility, problem.worst, budgeted) if problem.front else None

    @classmethod
    def read(
        cls, fingerprint: Mapping[str, Any], space: SearchSpace, latency: Mapping[str, Latency], budgeted: bool
    ) -> TradeOff | None:
        """That of a run, from what its ledger says the problem is; None if it has one goal only."""
        if "front" not in fingerprint:
            return None
        metrics, worst = fingerprint["front"]
        budgets = [Budget(metric, 1.0, relative=True) for metric in metrics]  # so that they are priced
        return cls(tuple(metrics), Feasibility(space, budgets, costs=latency), worst, budgeted)

    @property
    def corner(self) -> tuple[float, ...]:
        """The reference point [1 + M]."""
        return (1.0,) * (1 + len(self.metrics))

    def shares(self, widths: Widths) -> Floats:
        """The costs of a candidate as shares of the dense network's: [M]."""
        if widths not in self._points:
            pair = np.array([widths, self.feasibility.space.full], dtype=np.float64)
            prices = np.array([self.feasibility.costs[m](pair) for m in self.metrics])  # [M, 2]
            self._points[widths] = prices[:, 0] / np.where(prices[:, 1], prices[:, 1], 1.0)
        return self._points[widths]

    def point(self, trial: Trial) -> tuple[float, ...]:
        """Loss and costs in the unit box: [1 + M]."""
        return trial.loss / self.worst, *map(float, self.shares(trial.widths))

    def front(self, trials: Iterable[Trial]) -> list[Trial]:
        """Those of one fidelity that no other beats, the cheapest in the first cost first."""
        complete = ranked(trials)
        found = [complete[i] for i in front([self.point(t) for t in complete])]
        return sorted(found, key=lambda t: self.point(t)[1:])

    def finalists(self, below: Sequence[Trial], count: int) -> list[Trial]:
        """So many candidates of one fidelity that stand for their front.

        First the one that would be delivered, then whichever adds most to the hypervolume of those chosen (greedy
        subset selection: at least 63 % of the best choice's, Nemhauser et al. 1978), so they are spread along it. Here
        the logarithm of the loss counts: otherwise the small end, where the loss falls by much, would have them all.
        """
        order = ranked(below)
        key = (count, *(t.number for t in order))
        if key not in self._chosen:
            self._chosen.clear()  # asked again and again, as long as nothing new has finished
            self._chosen[key] = self._choose(order, count)
        return self._chosen[key]

    def _choose(self, order: list[Trial], count: int) -> list[Trial]:
        pool = self.front(order) if order else []
        pool = pool if len(pool) >= count else order
        first = self.best(order, [t.fidelity for t in order[:1]])
        chosen = [first] if first and count else []
        lowest = min([0.5, *(max(LEAST, t.loss / self.worst) for t in pool)])

        def logarithmic(trial: Trial) -> tuple[float, ...]:
            loss, *costs = self.point(trial)
            return 1 - math.log(max(loss, lowest)) / math.log(lowest), *costs

        while len(chosen) < min(count, len(pool)):
            points, left = [logarithmic(t) for t in chosen], [t for t in pool if t not in chosen]
            chosen.append(max(left, key=lambda t: (contribution(logarithmic(t), points, self.corner), -t.loss)))
        return chosen

    def best(self, trials: Sequence[Trial], fidelities: Sequence[str]) -> Trial | None:
        """The candidate to deliver: the lowest loss at the highest fidelity.

        Without budgets of the user that is within half the dense network's first cost; if none is, the cheapest one.

        Args:
            trials: In any order.
            fidelities: From the highest to the lowest.
        """
        if self.budgeted:
            return best(trials, fidelities)
        small = best([t for t in trials if self.shares(t.widths)[0] <= HALF], fidelities)
        return small or min(ranked(trials), key=lambda t: float(self.shares(t.widths)[0]), default=None)

    def rival(self, trials: Iterable[Trial], widths: Widths, fidelity: str) -> Trial | None:
        """Who makes a candidate hopeless by being surely better: the lowest loss among those that cost no more."""
        costs = self.shares(widths)
        rivals = (t for t in trials if t.fidelity == fidelity and (self.shares(t.widths) <= costs).all())
        return min(filter(_measured, rivals), key=lambda t: (t.loss, t.number), default=None)

    def volumes(self, trials: Iterable[Trial]) -> list[float]:
        """The hypervolume after each of the trials of one fidelity, in their order."""
        counted = (t.state is TrialState.COMPLETE and not t.probe and self.point(t) for t in trials)
        return growth([point or self.corner for point in counted], self.corner)


def _measured(trial: Trial) -> bool:
    """Whether others can be compared with it, batch by batch."""
    return trial.state is TrialState.COMPLETE and "batch_losses" in trial.metrics and not trial.probe
