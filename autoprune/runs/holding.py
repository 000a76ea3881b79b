"""After the search: finalists are measured until one really holds every latency budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autoprune.controller import SearchController
from autoprune.errors import SearchStopped
from autoprune.ledger.measurements import NOTE, Measurement, Measurements, used
from autoprune.problem import Problem, Trial
from autoprune.report.tables import counted
from autoprune.runs.correcting import corrected, planned
from autoprune.runs.latency_meter import LatencyMeter
from autoprune.runs.prepare import Prepared
from autoprune.schedule import Halving, contenders, ranked
from search_spaces import Widths

ROUNDS = 5  # without a network that holds, until the run gives up
MOST = 3  # networks measured in a round, or as many as there are finalists


@dataclass(frozen=True)
class Outcome:
    """The end of a search.

    Attributes:
        trial: That has won.
        best: The best one before anything was measured: the same, or one that does not hold.
        figures: By metric, what was measured of the winner for a budget on a latency (see `LatencyMeter.figures`).
    """

    trial: Trial
    best: Trial
    figures: Mapping[str, dict[str, float]] = field(default_factory=dict)


def hold(
    controller: SearchController,
    prepared: Prepared,
    meter: LatencyMeter,
    *,
    before: Callable[[Trial], None],
    where: object,
) -> Outcome | None:
    """The winner, once all that was asked for is evaluated; None: evaluate what is asked for now, then call it again.

    Round after round: the best finalists are measured in the order of their loss, and the first one that holds has
    won. If none does, they correct the predictor (see `corrected`), and the best candidates are projected on what it
    says now. Those have to be evaluated: by proxy, and the best of them as finalists. What was done so far is noted in
    the ledger, so that all of it may be repeated after a stop at any moment.

    Args:
        controller: Has nothing left to ask for (see `planned`); its ledger is open for writing.
        prepared: The problem.
        meter: Measures for its budgets.
        before: Called with the best candidate so far before anything is measured; may raise.
        where: The run's directory, for the way out of an error.

    Raises:
        SearchStopped: If no network holds after some rounds, or none is left; a resume begins to measure anew.
    """
    problem, schedule, ledger = prepared.problem, prepared.config.schedule, controller.ledger

    def note(kind: str, **said: Any) -> None:
        ledger.note(f"{NOTE}{Measurements.of(ledger.notes).num_notes}", {"kind": kind, **said})

    def more() -> bool:
        measured = Measurements.of(ledger.notes)
        if extra := _further(problem, schedule, measured, ledger.trials):
            told, further = counted(measured.closed, "measured network"), counted(len(extra), "more candidate")
            meter.say(f"predictor corrected by {told}: {further}")
            note("candidates", widths=[list(widths) for widths in extra])
        return bool(extra)

    best = contenders(ledger.trials, schedule.fidelities)[0] if meter.budgets else _chosen(controller)
    before(best)
    if not meter.budgets:
        return Outcome(best, best)
    if more():
        return None
    plan = planned(schedule, problem, ledger.notes)
    most = max([MOST, *(count for count, _ in schedule.rungs[-1:])])
    for trial in contenders(plan.able(ledger.trials), plan.fidelities):
        measured = Measurements.of(ledger.notes)
        found = measured.find(trial.widths)
        if found is None and (measured.open < most or any(m.holds for m in measured.every)):  # that one may be beaten
            found = meter(trial.widths, f"trial {trial.number}")
            note("measured", **found.to_json())
        if found is not None and found.holds:
            return Outcome(trial, best, meter.figures(found))
    measured = Measurements.of(ledger.notes)
    if measured.rounds + 1 >= ROUNDS or not measured.open:
        note("gave up")
        again = f"loosen the budget, or measure again on a quieter machine: autoprune resume {where}"
        raise SearchStopped(hopeless(meter, problem, measured.every, again))
    note("none held")
    more()  # if not: with the corrected predictor others may be finalists
    return None


def _chosen(controller: SearchController) -> Trial:
    if controller.best is None:
        raise SearchStopped("no candidate can be delivered; trials.csv says why")
    return controller.best


def _further(
    problem: Problem, schedule: Halving, measured: Measurements, trials: Sequence[Trial]
) -> tuple[Widths, ...]:
    """The best proxies of the search itself on the corrected budgets, those that were not evaluated yet."""
    if not measured.closed:
        return ()
    below = [t for t in trials if t.fidelity == schedule.first]
    finalists = schedule.rungs[0][0] if schedule.rungs else 0
    shapes = [t.widths for t in ranked(below) if t.widths not in measured.extra][: 2 * max(MOST, finalists)]
    project, known = corrected(problem, measured.told, measured.level).project, {t.widths for t in below}
    return tuple(widths for widths in dict.fromkeys(map(project, shapes)) if widths not in known)


def hopeless(meter: LatencyMeter, problem: Problem, seen: Sequence[Measurement], way_out: str) -> str:
    """The sentence for a device on which no network holds, about the one that came nearest."""

    def worst(found: Measurement) -> float:
        return max(used(b, found.took[b.metric], problem.latency[b.metric].dense) for b in meter.budgets)

    nearest = meter.describe(min(seen, key=worst))
    return (
        f"none of {len(seen)} networks held the latency budget when it was measured; the nearest: {nearest}; {way_out}"
    )
