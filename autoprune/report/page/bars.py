"""Before and after, a row for every group or layer: horizontal bars that stay readable on a phone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from autoprune.report.page import drawing as ink
from autoprune.report.page.drawing import Chart, Tips
from autoprune.report.tables import number, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BARS = 48  # in one chart
TABLE = 2000  # rows of the table below it


class Bar(NamedTuple):
    """One row: its name, before, after, both in words, and what stands beside it in the picture."""

    name: str
    before: float
    after: float
    words: str
    label: str


def bars(
    name: str, title: str, caption: str, rows: Sequence[Bar], unit: str, head: tuple[str, ...], is_sum: bool = True
) -> Chart:
    """A chart of rows in the order of the network, grey before and blue after.

    Args:
        name: Of the chart.
        title: Of the chart.
        caption: What it says.
        rows: At least one; of more than `BARS` the largest are drawn.
        unit: Of the axis.
        head: Columns of the table: name, words, share kept.
        is_sum: Whether the rows are parts of a whole.
    """
    largest = sorted(range(len(rows)), key=lambda i: -rows[i].before)[:BARS]
    shown = [rows[i] for i in sorted(largest)]
    if rest := len(rows) - len(shown):
        share = percent(sum(b.before for b in shown), sum(b.before for b in rows))
        which = f"{len(shown)} largest, {share} of the whole" if is_sum else f"first {len(shown)}"
        caption += f" Drawn are the {which}; the numbers of the other {rest} are in the table."

    def draw(axes: Axes, narrow: bool) -> Tips:
        places = range(len(shown))
        before = axes.barh(places, [b.before for b in shown], height=0.74, color=ink.DENSE, label="dense")
        after = axes.barh(places, [b.after for b in shown], height=0.74, color=ink.PRUNED, label="pruned")
        tips = {}
        for key, container in (("before", before), ("after", after)):
            for i, (patch, bar) in enumerate(zip(container, shown, strict=True)):
                patch.set_gid(f"{key}-{i}")
                tips[f"{key}-{i}"] = [f"{bar.name}: {bar.words}, {percent(bar.after, bar.before)} kept"]
        axes.set_xlim(0, 1.15 * max(b.before for b in shown))
        for place, bar in zip(places, shown, strict=True):
            at = (max(bar.before, bar.after), place)
            text = axes.annotate(
                bar.label, at, (4, 0), textcoords="offset points", va="center", fontsize=9, color=ink.MUTED
            )
            text.set_in_layout(False)  # it has the room above; measuring each would take long
        axes.set_yticks(places, [shortened(b.name, 17 if narrow else 30) for b in shown], fontsize=10)
        axes.set_ylim(len(shown) - 0.4, -0.6)  # the first layer on top
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_formatter(lambda value, _: number(value))
        axes.locator_params(axis="x", nbins=4 if narrow else 6)
        axes.set_xlabel(unit)
        return tips

    table = [(bar.name, bar.words, percent(bar.after, bar.before)) for bar in rows[:TABLE]]
    return Chart(name, title, caption.strip(), 92 + 18 * len(shown), draw, head, table)


def shortened(name: str, most: int) -> str:
    """The name with its middle left out where it is too long: both ends tell layers apart."""
    if len(name) <= most:
        return name
    front = (most - 1) // 3
    return f"{name[:front]}…{name[len(name) - (most - 1 - front) :]}"
