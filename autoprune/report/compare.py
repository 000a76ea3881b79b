"""Several runs side by side, as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from autoprune.printable import decimals
from autoprune.problem import Trial
from autoprune.report.fitting import FittingTable
from autoprune.report.gloss import scored
from autoprune.report.page.facts import Facts
from autoprune.report.page.measured import took_of
from autoprune.report.page.prices import cost_label
from autoprune.report.sheet import Out, console
from autoprune.report.tables import counted
from autoprune.report.took import took
from autoprune.report.trials import evaluated
from autoprune.trust import reading
from objectives import is_latency

if TYPE_CHECKING:
    from autoprune.runs.directory import RunDirectory


ACROSS = 6  # runs at most that are columns of the table; more are its rows


@reading()
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
    """Columns and one row per run: what was asked, what was found and what delivered, what it took."""
    costs = dict.fromkeys(["macs", *(name for facts in runs for name in facts.latency), "params"])
    has_front = any(facts.tradeoff for facts in runs)
    metric, score = common_metric(runs), runs[0].labels.headline
    best_of = f"best {metric} of a candidate" if metric else "best of a candidate"
    delivered = f"{metric} val, delivered".lstrip()
    also = score.beside(metric)  # else it has a column of its own
    samples = (*(f"{each.label} val" for each in also), f"{score.label} test")
    head = ("run", "state", "strategy", "goal" if has_front else "budget", best_of, delivered, *samples)
    rows = []
    for name, facts in zip(names(runs), runs, strict=True):
        best = facts.winner
        own = "" if metric else f"{facts.metric} "
        loss = f"{own}{decimals(best.loss)} ({_when(best, facts)})" if best else "-"
        final = facts.fitness("pruned")
        val = facts.measured("pruned", "val") or (best.metrics if best else {})
        shares = [_percent(*share_of(facts, cost)) for cost in costs]
        strategy = " over ".join(filter(None, (facts.config.strategy, facts.config.encoding)))
        if facts.is_training:
            strategy = f"{facts.config.method} (training)"
        reached = [_volume(facts)] * has_front
        counts = "-" if facts.is_training else evaluated(facts.trials, facts.config)
        asked = (name, facts.state, strategy, facts.config.goal)
        measured = (*(each.shown(val) for each in also), score.shown(facts.measured("pruned", "test")))
        result = (loss, f"{own}{decimals(final)}" if math.isfinite(final) else "-", *measured)
        rows.append((*asked, *result, *shares, *reached, counts, took(facts.trials, facts.export) or "-"))
    return (*head, *map(cost_label, costs), *["hypervolume"] * has_front, "evaluated", "time"), rows


def _when(best: Trial, facts: Facts) -> str:
    """How far a candidate was trained when it had its loss: only losses of the same kind compare."""
    if facts.is_training:
        return "after the cut, before the fine-tune"
    how = scored(best.fidelity, facts.config, facts.space) if best.fidelity.trains else "before any training"
    return f"{best.fidelity}: {how}"


def common_metric(runs: Sequence[Facts]) -> str:
    """What all of the runs minimise; "" if they do not minimise the same."""
    found = {facts.metric for facts in runs}
    return found.pop() if len(found) == 1 else ""


def share_of(facts: Facts, metric: str) -> tuple[float, str]:
    """A cost of a run's network as a fraction of the dense one (NaN: not known), and how a latency is known."""
    if not facts.widths or not facts.can_price(metric):
        return math.nan, ""
    if measured := took_of(facts, metric, facts.widths):
        return measured.share, "measured"
    return float(facts.priced(metric, [facts.widths])[0]), "predicted" if is_latency(metric) else ""


def _percent(share: float, how: str) -> str:
    return f"{100 * share:.1f} % {how}".strip() if math.isfinite(share) else "-"


def _volume(facts: Facts) -> str:
    """The hypervolume of its front; a dash if it has one goal only."""
    first = [t for t in facts.trials if t.fidelity == facts.config.fidelity]
    volumes = facts.tradeoff.volumes(first) if facts.tradeoff else []
    return f"{volumes[-1]:.4f}" if volumes else "-"


def side_by_side(runs: Sequence[Facts]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The table of `run_table`; with few runs each is a column."""
    head, rows = run_table(runs)
    if len(rows) <= ACROSS:
        head, *rows = zip(head, *rows, strict=True)
    return head, rows


@reading()
def print_compare(runs: Sequence[Facts], out: Out | None = None) -> None:
    """Print the table of `side_by_side`."""
    head, rows = side_by_side(runs)
    table = FittingTable(title=counted(len(runs), "run"), title_justify="left")
    for column, name in enumerate(head):
        table.add_column(Text(name), justify="left" if len(runs) <= ACROSS or column < 4 else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    (out or console()).print(table)
