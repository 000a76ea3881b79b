"""What measured networks say about the predictor: tighter budgets for the candidates that come next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from autoprune.ledger.measurements import Measurement, Measurements, used
from autoprune.problem import Problem
from autoprune.schedule import Halving
from objectives import Budget
from search_spaces import Widths

SAFETY = 1.01  # what the next network may be slower than predicted, beyond what those so far were


def binding(budgets: Iterable[Budget]) -> tuple[Budget, ...]:
    """Those that have to be measured; 100 % of the dense network always holds."""
    return tuple(b for b in budgets if b.target and not (b.relative and b.limit >= 1))


def corrected(problem: Problem, measured: Iterable[Measurement], level: float = 1.0) -> Problem:
    """The problem with latency budgets so tight that what its predictors let pass should hold on the device.

    Each limit is divided by the ratio of measured to predicted so far (networks near the same budget err alike), times
    `SAFETY`; never by less than 1, and never below the smallest network. A factor and no new fit: the networks measured
    are few and alike, so they say how far off the predictor is there, not which layer it is.

    Args:
        problem: With the budgets that must hold.
        measured: Networks beside the dense one.
        level: Which quantile of their ratios; 1: the largest.
    """
    seen = tuple(measured)
    if not seen:
        return problem
    return replace(problem, budgets=tuple(_tighter(problem, budget, seen, level) for budget in problem.budgets))


def _tighter(problem: Problem, budget: Budget, measured: Iterable[Measurement], level: float) -> Budget:
    if budget not in binding([budget]):
        return budget
    latency = problem.latency[budget.metric]
    whole = latency(problem.space.full) if budget.relative else 1.0
    ratios = [
        used(budget, m.took[budget.metric], latency.dense) * budget.limit * whole / latency(m.widths)
        for m in measured
        if budget.metric in m.took
    ]
    if not ratios or (ratio := float(np.quantile(ratios, level))) <= 1:
        return budget
    smallest = latency(problem.space.floor) / whole
    return replace(budget, limit=min(budget.limit, max(budget.limit / (SAFETY * ratio), smallest)))


class Eligible:
    """Whether a candidate may still be a finalist, or the winner: as it was measured, or as it is predicted by now.

    Args:
        problem: With the corrected budgets.
        known: Widths -> whether they held.
    """

    def __init__(self, problem: Problem, known: Mapping[Widths, bool]) -> None:
        self._problem, self._known = problem, dict(known)

    def __call__(self, widths: Widths) -> bool:
        """Whether it may."""
        if widths not in self._known:  # asked again and again
            self._known[widths] = not self._problem.feasibility.violation(widths)
        return self._known[widths]


def planned(schedule: Halving, problem: Problem, notes: Mapping[str, Any]) -> Halving:
    """The schedule of a run, with what its measurements have added.

    Args:
        schedule: That of its settings.
        problem: Of the run.
        notes: Of its ledger.
    """
    measured = Measurements.of(notes)
    if not measured.closed:  # after it gave up, too, what was asked besides the strategy does not count
        return replace(schedule, extra=measured.extra) if measured.extra else schedule
    known = {m.widths: m.holds for m in measured.every if m.holds} | {m.widths: m.holds for m in measured.told}
    return replace(
        schedule, extra=measured.extra, allowed=Eligible(corrected(problem, measured.told, measured.level), known)
    )
