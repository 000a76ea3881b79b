"""The front of a run on a terminal: its points, and the hypervolume over the trials."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from autoprune.fidelity import FINAL
from autoprune.labels import TOP1, Score
from autoprune.ledger import Record
from autoprune.printable import decimals
from autoprune.problem import Trial
from autoprune.report.fitting import FittingTable
from autoprune.report.sheet import Out
from autoprune.report.tables import counted, percent
from autoprune.schedule import is_cached
from autoprune.tradeoff import TradeOff
from objectives import is_latency

if TYPE_CHECKING:
    from autoprune.runs.directory import RunDirectory

SHOWN = 20  # points of a front


def goal_table(
    tradeoff: TradeOff, trials: Sequence[Trial], fidelity: str, metric: str, score: Score = TOP1
) -> FittingTable | None:
    """The points that no other candidate of this fidelity beats; None if there are not more than two.

    Args:
        tradeoff: Of the run.
        trials: Of the run.
        fidelity: Losses of others do not compare.
        metric: What the loss is called.
        score: Of the task.
    """
    found = tradeoff.front(t for t in trials if t.fidelity == fidelity)
    if len(found) <= 2:
        return None
    some = {round(i) for i in np.linspace(0, len(found) - 1, SHOWN)} if len(found) > SHOWN else range(len(found))
    left_out = f", {len(some)} of {counted(len(found), 'point')}" if len(found) > SHOWN else ""
    table = FittingTable(title=f"front ({fidelity}{left_out})", title_justify="left")
    costs = (f"{name}, predicted" if is_latency(name) else name for name in tradeoff.metrics)
    for column in ("trial", *costs, metric, *(s.label for s in score.beside(metric))):
        table.add_column(column, justify="right")
    for trial in (found[i] for i in sorted(some)):
        shares = (percent(float(share), 1.0) for share in tradeoff.shares(trial.widths))
        also = [f"{each.number(trial.metrics):.4f}" for each in score.beside(metric)]
        table.add_row(str(trial.number), *shares, decimals(trial.loss), *also)
    return table


def print_front(out: Out, run: RunDirectory, record: Record) -> None:
    """The points of the front before and after a short fine-tune, its hypervolume and what that means."""
    tradeoff = run.tradeoff(record)
    if tradeoff is None:
        return
    metric = run.metric
    for fidelity in dict.fromkeys([run.config.fidelity, FINAL]):
        if table := goal_table(tradeoff, record.trials, fidelity, metric, run.labels.headline):
            out.print(table)
    if said := summary(run, record):
        out.print(f"front: {said}; {reference(tradeoff, metric)}", markup=False)


def reference(tradeoff: TradeOff, metric: str) -> str:
    """From where the hypervolume is measured."""
    costs = " and ".join(tradeoff.metrics)
    return (
        f"of the box below the dense network's {costs} and {metric} {tradeoff.worst:.4g}, that of a network which "
        "answers everything alike: 0 is worthless, 1 would be no loss at no cost"
    )


def summary(run: RunDirectory, record: Record) -> str:
    """How good the front of a run is, on one line; empty if it has one goal only, or before the first candidate."""
    tradeoff = run.tradeoff(record) if run.config.front else None
    if tradeoff is None:
        return ""
    proxies = [t for t in record.trials if t.fidelity == run.config.fidelity and not is_cached(t)]
    volumes = tradeoff.volumes(proxies)
    if not volumes or not volumes[-1]:
        return ""
    return (
        f"{counted(len(tradeoff.front(proxies)), 'point')}, hypervolume {volumes[-1]:.4f} after "
        f"{counted(len(proxies), 'candidate')} (99 % of it by trial {proxies[nearly_all(volumes) - 1].number})"
    )


def nearly_all(volumes: Sequence[float]) -> int:
    """After how many evaluations there were 99 % of the last hypervolume."""
    return 1 + bisect.bisect_left(volumes, 0.99 * volumes[-1])
