"""The tables a user sees, as rich renderables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.text import Text

from autoprune.limits import duration
from autoprune.report.fitting import FittingTable
from objectives import Feasibility
from search_spaces import SearchSpace, Widths


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
            Text.assemble(f"{row.cost} ", (f"({row.unit})", "dim")),
            f"{number(row.smallest)} ({percent(row.smallest, row.dense)})",
            f"{number(row.uniform)} ({percent(row.uniform, row.dense)})",
            number(row.dense),
            limit,
        )
    return table


def removed(space: SearchSpace, widths: Widths) -> str:
    """What has no width left, in words: "block layer2.1, branch layer3.0.se"; empty if nothing.

    A block is a numbered module with layers in it, "layer2.1" or "block2". A stage that has lost all of its blocks is
    named, too: "(every block of layer2)".
    """
    gone = [name for branch in space.removed(widths) for name in branch.name.split(" and ")]
    blocks: dict[str, set[str]] = {}  # stage -> its blocks, as far as they have layers
    for layer in space.layers:
        parts = layer.name.split(".")
        for depth in range(1, len(parts)):
            blocks.setdefault(".".join(parts[:depth]), set()).add(".".join(parts[: depth + 1]))
    stages = [s for s, names in blocks.items() if names <= set(gone) and (len(names) > 1 or min(names)[-1].isdigit())]
    around = {name for name in gone if any(layer.name.startswith(f"{name}.") for layer in space.layers)}
    said = ", ".join(f"{'block' if name in around and name[-1].isdigit() else 'branch'} {name}" for name in gone)
    return said + (f" (every block of {', '.join(stages)})" if stages else "")


def groups_table(space: SearchSpace, widths: Widths | None = None) -> FittingTable:
    """The prunable groups: how many channels, which widths are legal, which layers are tied to them."""
    table = FittingTable(title=counted(len(space.groups), "prunable group"), title_justify="left")
    table.add_column("group", overflow="fold")
    table.add_column("channels", justify="right")
    table.add_column("legal widths" if widths is None else "kept", justify="right")
    table.add_column("layers that shrink with it", overflow="fold")
    multiplying = {layer.name for layer in space.layers}
    multiplying |= {m.layer for group in space.groups for m in group.members if m.role == "declared"}
    for index, group in enumerate(space.groups):
        choices = group.choices()
        step = f", step {group.divisor}" if group.divisor > 1 else ""
        legal = f"{choices[0]}-{choices[-1]}{step}" if len(choices) > 1 else f"{choices[0]} (fixed)"
        if group.floor == 0:
            legal = f"0 or {choices[1]}-{choices[-1]}{step}"
        kept = legal if widths is None else f"{widths[index]} ({percent(widths[index], group.size)})"
        layers = list(dict.fromkeys(m.layer for m in group.members if m.layer in multiplying))
        table.add_row(group.name, group.counted(group.size), kept, _some(layers))
    return table


def branches_table(space: SearchSpace) -> FittingTable:
    """Which blocks may go whole, with which groups; and why others may not."""
    table = FittingTable(title=counted(len(space.branches), "branch").replace("branchs", "branches"))
    table.title_justify = "left"
    table.add_column("branch", overflow="fold")
    table.add_column("may go", overflow="fold")
    for branch in space.branches:
        names = [space.groups[g].name for g in branch.groups]
        stays = next((space.groups[g] for g in branch.groups if space.groups[g].floor), None)
        table.add_row(branch.name, f"yes, with {_some(names)}" if stays is None else f"no, '{stays.name}' stays")
    reasons: dict[str, list[str]] = {}
    for group in space.groups:
        if group.stays_because:
            reasons.setdefault(group.stays_because, []).append(group.name)
    for why, names in reasons.items():
        table.add_row(_some(names), f"no: {why}")
    return table


def frozen_table(space: SearchSpace) -> FittingTable:
    """The groups that cannot be pruned, and why."""
    table = FittingTable(title=counted(len(space.frozen), "frozen group"), title_justify="left")
    table.add_column("group", overflow="fold")
    table.add_column("channels", justify="right")
    table.add_column("because", overflow="fold")
    for group in space.frozen:
        table.add_row(group.name, group.counted(group.size), group.frozen_because)
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


def _some(names: Sequence[str], shown: int = 4) -> str:
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
