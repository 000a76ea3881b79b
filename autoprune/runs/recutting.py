"""A network of a run at other budgets, or another one of its trials: measured, and not searched for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from autoprune.ledger.measurements import Measurements
from autoprune.problem import Trial
from autoprune.runs.correcting import corrected
from autoprune.runs.directory import RunDirectory
from autoprune.runs.holding import ROUNDS, hopeless
from autoprune.runs.latency_meter import LatencyMeter
from autoprune.runs.prepare import Prepared
from objectives import Budget
from objectives.latency import predictors


def priced(prepared: Prepared, budgets: tuple[Budget, ...], say: Callable[[str], None]) -> Prepared:
    """The problem with predictors for other budgets; a device that is new to it is studied, which is told by `say`.

    Raises:
        ValueError: As `predictors`.
    """
    problem, command = prepared.problem, prepared.config.latency_command
    found = predictors(budgets, prepared.model, problem.space, prepared.example, command, problem.latency, say)
    return replace(prepared, problem=replace(problem, latency={**problem.latency, **found}))


def cut_until_held(
    run: RunDirectory,
    prepared: Prepared,
    budgets: tuple[Budget, ...],
    cut: Callable[[tuple[Budget, ...]], Trial],
    say: Callable[[str], None],
) -> tuple[Trial, Mapping[str, dict[str, float]]]:
    """A network at other budgets that holds them when it is measured; nothing is searched.

    Args:
        run: What it has measured corrects the predictor from the start.
        prepared: The problem of the run, with predictors for these budgets (see `priced`).
        budgets: What must hold.
        cut: Budgets -> the network there.
        say: Where to tell what was measured.

    Returns:
        The network, and what was measured of it by metric.

    Raises:
        ValueError: If it does not hold after `ROUNDS` cuts.
    """
    meter, problem = LatencyMeter(prepared, budgets, say), replace(prepared.problem, budgets=budgets)
    seen = list(Measurements.of(run.record().notes).told)
    first = len(seen)
    for _ in range(ROUNDS):
        trial = cut(corrected(problem, seen).budgets)
        if not meter.budgets:
            return trial, {}
        found = meter(trial.widths)
        if found.holds:
            return trial, meter.figures(found)
        seen.append(found)
    raise ValueError(hopeless(meter, problem, seen[first:], "ask for a looser budget"))


def known_or_measured(
    run: RunDirectory, prepared: Prepared, trial: Trial, say: Callable[[str], None]
) -> Mapping[str, dict[str, float]]:
    """What a trial's network takes by metric, as the run has measured it; else it is measured, and not judged."""
    meter = LatencyMeter(prepared, prepared.problem.budgets, say)
    found = Measurements.of(run.record().notes).find(trial.widths)
    return meter.figures(found or meter(trial.widths, f"trial {trial.number}")) if meter.budgets else {}
