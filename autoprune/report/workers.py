"""Tables of what goes on in a run: who does what, and what went wrong."""

from __future__ import annotations

from rich.text import Text

from autoprune.ledger import Entry
from autoprune.report.activity import Activity
from autoprune.report.fitting import FittingTable
from autoprune.report.tables import seconds


def workers_table(activity: Activity, is_live: bool, shown: int = 16) -> FittingTable:
    """Who does what, since when, and how much they have done: those at work first to be listed, others counted."""
    table = FittingTable(title="workers", title_justify="left", box=None, padding=(0, 1), pad_edge=False)
    table.add_column("worker", overflow="fold")
    for column in ("done", "failed", "for"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("now")
    listed = sorted(activity.workers, key=lambda w: w.entry is None)[:shown]
    for worker in activity.workers:
        if worker in listed:
            what = _in_hand(worker.entry, is_live)
            age = seconds(max(0, round(activity.now_s - worker.since_s))) if is_live else ""
            table.add_row(Text(worker.name), str(worker.done), str(worker.failed), age, what)
    if others := [w for w in activity.workers if w not in listed]:
        done, failed = sum(w.done for w in others), sum(w.failed for w in others)
        table.add_row(f"and {len(others)} more", str(done), str(failed), "", "")
    for entry in activity.waiting[:shown]:
        age = seconds(max(0, round(activity.now_s - entry.since_s))) if is_live else ""
        table.add_row("nobody yet", "", "", age, _in_hand(entry, is_live))
    return table


def failures_table(activity: Activity, shown: int = 5) -> FittingTable:
    """What went wrong, by reason, the most frequent first."""
    table = FittingTable(title="failures", title_justify="left", box=None, padding=(0, 1), pad_edge=False)
    for column in ("failed", "last", "because"):
        table.add_column(column, justify="left" if column == "because" else "right", no_wrap=column != "because")
    for reason, count, trial in activity.failures[:shown]:
        table.add_row(str(count), f"trial {trial.number}", Text(reason))
    if others := activity.failures[shown:]:
        table.add_row(str(sum(count for _, count, _ in others)), "", f"of {len(others)} other reasons")
    return table


def _in_hand(entry: Entry | None, is_live: bool) -> str:
    if entry is None:
        return "idle" if is_live else ""
    attempt = f", attempt {entry.deaths + 1}" if entry.deaths else ""
    what = f"trial {entry.trial.number}, {entry.trial.fidelity}{attempt}"
    return what if is_live else f"{what}, will be redone"
