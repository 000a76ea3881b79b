"""The tables a user sees, as rich renderables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from autoprune.limits import duration
from autoprune.report.fitting import FittingTable
from objectives import Feasibility, is_latency
from search_spaces import SearchSpace, Widths

if TYPE_CHECKING:
    from autoprune.ledger import Entry
    from autoprune.report.activity import Activity


def number(value: float) -> str:
    """Three or four significant digits with k, M or G."""
    for scale, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= scale:
            return f"{value / scale:.4g}{unit}"
    return f"{value:.4g}"


def counted(count: int, noun: str) -> str:
    """The count and its noun: "1 group", "2 groups"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def apart(one: float, other: float) -> tuple[str, str]:
    """Two numbers to four digits, or as many as it takes to tell them apart."""
    for digits in range(4, 18):
        texts = f"{one:.{digits}g}", f"{other:.{digits}g}"
        if one == other or texts[0] != texts[1]:
            break
    return texts


def percent(part: float, whole: float) -> str:
    """`part` as a percentage of `whole`."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def seconds(value: float) -> str:
    """How long, in words: "0.25 s", "42 s", "12m30s", "2h5m"."""
    return f"{value:.2g} s" if 0.005 < value < 1 else f"{value:.0f} s" if value < 100 else duration(value)


def reachable_table(feasibility: Feasibility) -> FittingTable:
    """What each cost can reach: the smallest network, uniform widths at the budget, the dense network."""
    table = FittingTable(title="reachable range", title_justify="left")
    for column in ("cost", "smallest", "uniform at the budget", "dense", "budget"):
        table.add_column(column, justify="left" if column == "cost" else "right")
    for row in feasibility.reachable():
        limit = "" if row.limit is None else f"{number(row.limit)} ({percent(row.limit, row.dense)})"
        table.add_row(
            f"{row.cost} [dim]({row.unit})[/]",
            f"{number(row.smallest)} ({percent(row.smallest, row.dense)})",
            f"{number(row.uniform)} ({percent(row.uniform, row.dense)})",
            number(row.dense),
            limit,
        )
    return table


def groups_table(space: SearchSpace, widths: Widths | None = None) -> FittingTable:
    """The prunable groups: how many channels, which widths are legal, which layers are tied to them."""
    table = FittingTable(title=counted(len(space.groups), "prunable group"), title_justify="left")
    table.add_column("group", overflow="fold")
    table.add_column("channels", justify="right")
    table.add_column("legal widths" if widths is None else "kept", justify="right")
    table.add_column("layers that shrink with it", overflow="fold")
    multiplying = {layer.name for layer in space.layers}
    for index, group in enumerate(space.groups):
        choices = group.choices()
        step = f", step {group.divisor}" if group.divisor > 1 else ""
        legal = f"{choices[0]}-{choices[-1]}{step}" if len(choices) > 1 else f"{choices[0]} (fixed)"
        kept = legal if widths is None else f"{widths[index]} ({percent(widths[index], group.size)})"
        layers = list(dict.fromkeys(m.layer for m in group.members if m.layer in multiplying))
        table.add_row(group.name, str(group.size), kept, _some(layers))
    return table


def frozen_table(space: SearchSpace) -> FittingTable:
    """The groups that cannot be pruned, and why."""
    table = FittingTable(title=counted(len(space.frozen), "frozen group"), title_justify="left")
    table.add_column("group", overflow="fold")
    table.add_column("channels", justify="right")
    table.add_column("because", overflow="fold")
    for group in space.frozen:
        table.add_row(group.name, str(group.size), group.frozen_because)
    return table


def comparison_table(title: str, rows: Sequence[tuple[str, Any, Any, str]]) -> FittingTable:
    """Dense against pruned: (what, dense, pruned, ratio or difference) per row."""
    table = FittingTable(title=title, title_justify="left")
    table.add_column("", overflow="fold")
    for column in ("dense", "pruned", ""):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    return table


def cost_rows(costs: Mapping[str, Mapping[str, float]]) -> list[tuple[str, str, str, str]]:
    """A row per cost for `comparison_table`; a latency among them was not measured."""
    return [
        (
            name,
            number(cost["dense"]),
            number(cost["pruned"]),
            percent(cost["pruned"], cost["dense"]) + ", predicted" * is_latency(name),
        )
        for name, cost in costs.items()
    ]


def recovery_rows(metrics: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, str, str]]:
    """Rows for `comparison_table` of what else could have been delivered, on the validation images (see `recover`)."""
    before, finalist, after = (metrics.get(f"{name}_val") for name in ("before_finetune", "finalist", "after_finetune"))
    said = before or finalist or {}
    own = next((name for name in said if name not in ("loss", "top1", "delivered")), "loss")  # what was minimised
    word, rows = own.rpartition(":")[2], []
    if before:
        was, is_now = apart(before.get(own, math.nan), (after or {}).get(own, math.nan))
        rows.append(
            ("top-1 before the fine-tune", before, f"{word} {was} before" + (f", {is_now} after" if after else ""))
        )
    if finalist:
        rows.append(("top-1 as a finalist", finalist, f"{word} {finalist.get(own, math.nan):.4g}"))
    return [
        (label, "", f"{found['top1']:.4f}", ("delivered: " if found["delivered"] else "") + text)
        for label, found, text in rows
    ]


def timed_rows(measured: Mapping[str, Mapping[str, float]]) -> list[tuple[str, str, str, str]]:
    """A row per measured latency for `comparison_table`: dense and pruned side by side, and what was predicted."""
    return [
        (
            name,
            f"{said['dense_ms']:.3g} ± {said['dense_spread_ms']:.1g} ms",
            f"{said['pruned_ms']:.3g} ± {said['pruned_spread_ms']:.1g} ms",
            f"{100 * said['share']:.1f} ± {100 * said['share_error']:.1f} %, "
            f"predicted {percent(said['predicted_share'], 1)}",
        )
        for name, said in measured.items()
    ]


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


def _some(names: Sequence[str], shown: int = 4) -> str:
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
