"""Several runs side by side, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from autoprune.report.console import console
from autoprune.report.page.dots import top1
from autoprune.report.page.facts import Facts
from autoprune.report.page.words import duration

if TYPE_CHECKING:
    from autoprune.runs.directory import RunDirectory


def read_runs(runs: Sequence[RunDirectory]) -> list[Facts]:
    """What is known of each run.

    Raises:
        ValueError: If there are not at least two different ones, or one cannot be read.
    """
    if len({run.path.resolve() for run in runs}) < 2:
        raise ValueError("compare: expected at least two different runs, e.g. autoprune compare results/a results/b")
    return [Facts.of(run) for run in runs]


def names(runs: Sequence[Facts]) -> list[str]:
    """What each run is called here: its directory's name, the whole path where two have the same."""
    short = [facts.name for facts in runs]
    return [name if short.count(name) == 1 else str(facts.path) for name, facts in zip(short, runs, strict=True)]


def run_table(runs: Sequence[Facts]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns and one row per run: what was asked, what came out, what it took."""
    head = ("run", "state", "strategy", "budget", "best loss", "top-1 val", "top-1 test", "MACs", "params")
    rows = []
    for name, facts in zip(names(runs), runs, strict=True):
        best = facts.winner
        loss = f"{best.loss:.4f} ({best.fidelity})" if best else "-"
        val = facts.measured("pruned", "val") or (best.metrics if best else {})
        shares = ["-"] * 2
        if facts.widths:
            shares = [f"{100 * float(facts.priced(cost, [facts.widths])[0]):.1f} %" for cost in ("macs", "params")]
        strategy = " over ".join(filter(None, (facts.config.strategy, facts.config.encoding)))
        asked = (name, facts.state, strategy, ", ".join(map(str, facts.budgets)))
        took = (str(len(facts.trials)), duration(facts.seconds))
        rows.append((*asked, loss, top1(val), top1(facts.measured("pruned", "test")), *shares, *took))
    return (*head, "evaluations", "time"), rows


def print_compare(runs: Sequence[Facts]) -> None:
    """Print the table of `run_table`."""
    head, rows = run_table(runs)
    table = Table(title=f"{len(rows)} runs", title_justify="left")
    for column, name in enumerate(head):
        table.add_column(name, justify="left" if column < 4 else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console().print(table)
