"""Several runs on one page: their best so far, their results, their widths side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.report.compare import names, run_table
from autoprune.report.page import drawing as ink
from autoprune.report.page.bars import BARS, shortened
from autoprune.report.page.document import write_html
from autoprune.report.page.dots import dots, frame
from autoprune.report.page.drawing import Chart, Tips, check_installed
from autoprune.report.page.facts import Facts
from autoprune.report.page.history import improvements

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = (ink.PRUNED, ink.BUDGET, ink.FINAL, ink.EXTRA, ink.MUTED, ink.FAIL)
MARKERS, LINES = "osD^vPX", ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (5, 1.5, 1, 1.5)))


def write_overlay(runs: Sequence[Facts], path: Path) -> Path:
    """Write the page that compares runs.

    Raises:
        ValueError: If there is nothing to draw with.
        DiskError: If it cannot be written.
    """
    check_installed()
    made = [history_overlay(runs), result_overlay(runs), widths_overlay(runs)]
    head, rows = run_table(runs)
    return write_html(path, "compare.html", head=head, rows=rows, charts=[c for c in made if c], count=len(runs))


def history_overlay(runs: Sequence[Facts]) -> Chart | None:
    """The best so far of every run that has one, by evaluation."""
    lines = []
    for i, (name, facts) in enumerate(zip(names(runs), runs, strict=True)):
        place = {t.number: 1 + n for n, t in enumerate(facts.trials)}
        first = [t for t in facts.trials if t.fidelity == facts.config.fidelity]
        if steps := improvements(first):
            lines.append((i, name, [(place[t.number], t.loss) for t in steps], place[first[-1].number]))
    if not lines:
        return None
    low, high = frame(loss for _, _, steps, _ in lines for _, loss in steps)

    def draw(axes: Axes, narrow: bool) -> Tips:
        for i, name, steps, end in lines:
            x, y = zip(*steps, (end, steps[-1][1]), strict=True)
            color, style = COLORS[i % len(COLORS)], LINES[i // len(COLORS) % len(LINES)]
            label = shortened(name, 20 if narrow else 28)
            axes.plot(x, y, drawstyle="steps-post", color=color, linestyle=style, label=label)
        axes.set(xlabel="evaluation", ylabel="loss", ylim=(low, high))
        axes.locator_params(axis="x", nbins=6, integer=True)
        return {}

    kinds = {(f.metric, f.config.fidelity) for f in runs}
    caption = "Lower is better: the best candidate so far, before any fine-tune."
    if len(kinds) > 1:
        caption += f" They do not compare: {', '.join(sorted(f'{m} by {f}' for m, f in kinds))}."
    rows = [(name, str(len(steps)), f"{steps[-1][1]:.4f}", str(steps[-1][0])) for _, name, steps, _ in lines]
    head = ("run", "improvements", "best", "at evaluation")
    return Chart("history", "Best so far", caption, 290 + 9 * len(lines), draw, head, rows)


def result_overlay(runs: Sequence[Facts]) -> Chart | None:
    """Accuracy of what was delivered against its MACs; None before the first run has finished."""
    points = []
    for i, (name, facts) in enumerate(zip(names(runs), runs, strict=True)):
        split = "test" if facts.measured("pruned", "test") else "val"
        y = facts.measured("pruned", split).get("top1", math.nan)
        if facts.widths and math.isfinite(y):
            points.append((i, name, 100 * float(facts.priced("macs", [facts.widths])[0]), 100 * y, split))
    if not points:
        return None

    def draw(axes: Axes, narrow: bool) -> Tips:
        for i, name, x, y, _ in points:
            style: dict[str, Any] = {"color": COLORS[i % len(COLORS)], "marker": MARKERS[i % len(MARKERS)], "s": 60}
            dots(axes, f"run-{i}", [x], [y], shortened(name, 20 if narrow else 28), **style)
        for limits, values, least in (
            (axes.set_xlim, [p[2] for p in points], 10),
            (axes.set_ylim, [p[3] for p in points], 2),
        ):
            low, high = min(values), max(values)
            room = max(0.15 * (high - low), (least - high + low) / 2)  # noise must not look like a difference
            limits(low - room, high + room)
        axes.set(xlabel="MACs, % of the dense network", ylabel="top-1, %")
        return {f"run-{i}": [f"{name}: {y:.2f} % at {x:.1f} % of the MACs"] for i, name, x, y, _ in points}

    caption = f"Up and to the left is better. On {' and '.join(sorted({p[4] for p in points}))} images."
    rows = [(name, f"{x:.1f} %", f"{y:.2f} %", split) for _, name, x, y, split in points]
    height = 290 + 9 * len(points)
    return Chart("results", "What was delivered", caption, height, draw, ("run", "MACs", "top-1", "images"), rows)


def widths_overlay(runs: Sequence[Facts]) -> Chart | None:
    """The share of every group that each run keeps, for the runs over the same groups as the first that has any."""
    have = [(i, name, f) for i, (name, f) in enumerate(zip(names(runs), runs, strict=True)) if f.widths]
    if not have:
        return None
    groups = have[0][2].space.groups
    same = [
        (i, name, f)
        for i, name, f in have
        if [(g.name, g.size) for g in f.space.groups] == [(g.name, g.size) for g in groups]
    ]
    kept = {i: [w / g.size for w, g in zip(f.widths or (), groups, strict=True)] for i, _, f in same}
    shown = range(min(BARS, len(groups)))

    def draw(axes: Axes, narrow: bool) -> Tips:
        for i, name, _ in same:
            style: dict[str, Any] = {"color": COLORS[i % len(COLORS)], "marker": MARKERS[i % len(MARKERS)], "s": 30}
            x = [100 * kept[i][g] for g in shown]
            dots(axes, f"run-{i}", x, list(shown), shortened(name, 20 if narrow else 28), alpha=0.85, **style)
        axes.set_yticks(shown, [shortened(groups[g].name, 17 if narrow else 30) for g in shown], fontsize=10)
        axes.set(xlabel="channels kept, %", xlim=(0, 104), ylim=(len(shown) - 0.4, -0.6))
        return {
            f"run-{i}": [f"{name}, {groups[g].name}: {100 * kept[i][g]:.0f} %" for g in shown] for i, name, _ in same
        }

    caption = "How much of every group of layers each run keeps."
    if other := len(have) - len(same):
        caption += f" {other} left out: over another network or with other groups."
    if len(shown) < len(groups):
        caption += f" The first {len(shown)} of {len(groups)} groups."
    rows = [(g.name, str(g.size), *(str((f.widths or ())[n]) for _, _, f in same)) for n, g in enumerate(groups[:500])]
    head = ("group", "dense", *(name for _, name, _ in same))
    return Chart("widths", "Widths side by side", caption, 110 + 22 * len(shown) + 9 * len(same), draw, head, rows)
