"""Several runs on one page: their best so far, their results, their widths side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autoprune.printable import decimals
from autoprune.report.compare import names, share_of, side_by_side
from autoprune.report.page import marks
from autoprune.report.page.bars import BARS, shortened
from autoprune.report.page.document import write_html
from autoprune.report.page.dots import LossAxis, dots
from autoprune.report.page.drawing import Chart, Tips, check_installed, up_to_100
from autoprune.report.page.facts import Facts
from autoprune.report.page.fronts import front_overlays, hypervolume_overlay
from autoprune.report.page.history import improvements
from autoprune.report.page.prices import cost_label, slug
from autoprune.trust import reading

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@reading()
def write_overlay(runs: Sequence[Facts], path: Path) -> Path:
    """Write the page that compares runs.

    Raises:
        ValueError: If there is nothing to draw with.
        DiskError: If it cannot be written.
    """
    check_installed()
    latencies = dict.fromkeys(metric for facts in runs for metric in facts.latency)
    made = [history_overlay(runs), *front_overlays(runs), hypervolume_overlay(runs)]
    made += [*(result_overlay(runs, metric) for metric in ("macs", *latencies)), widths_overlay(runs)]
    head, rows = side_by_side(runs)
    return write_html(path, "compare.html", head=head, rows=rows, charts=[c for c in made if c], count=len(runs))


def history_overlay(runs: Sequence[Facts]) -> Chart | None:
    """The best so far of every run that has one, by trial."""
    lines = []
    for i, (name, facts) in enumerate(zip(names(runs), runs, strict=True)):
        first = [t for t in facts.trials if t.fidelity == facts.config.fidelity]
        if not facts.tradeoff and (steps := improvements(first)):
            lines.append((i, name, [(t.number, t.loss) for t in steps], first[-1].number))
    if not lines:
        return None
    scale = LossAxis.of(loss for _, _, steps, _ in lines for _, loss in steps)

    def draw(axes: Axes, narrow: bool) -> Tips:
        for i, name, steps, end in lines:
            x, y = zip(*steps, (end, steps[-1][1]), strict=True)
            axes.plot(x, y, drawstyle="steps-post", **marks.line(i, name, narrow))
        axes.set(xlabel="trial", ylabel=" or ".join(sorted({f.metric for f in drawn})))
        scale.put(axes)
        axes.locator_params(axis="x", nbins=6, integer=True)
        return {}

    drawn = [runs[i] for i, *_ in lines]
    kinds = {(f.metric, f.config.fidelity) for f in drawn}
    caption = "Lower is better: the best candidate so far, before any fine-tune."
    if len(kinds) > 1:
        caption += f" They do not compare: {', '.join(sorted(f'{m} by {f}' for m, f in kinds))}."
    rows = [(name, str(len(steps)), decimals(steps[-1][1]), str(steps[-1][0])) for _, name, steps, _ in lines]
    head = ("run", "improvements", "best", "at trial")
    return Chart("history", "Best so far", caption, 290 + 9 * len(lines), draw, head, rows)


def result_overlay(runs: Sequence[Facts], metric: str) -> Chart | None:
    """Accuracy of what was delivered against a cost; None where too few runs have finished that have it."""
    points, score = [], runs[0].labels.headline
    scale = 100 if score.is_fraction else 1
    for i, (name, facts) in enumerate(zip(names(runs), runs, strict=True)):
        split = "test" if facts.measured("pruned", "test") else "val"
        y = facts.measured("pruned", split).get(score.name, math.nan)
        share, how = share_of(facts, metric)
        if math.isfinite(share) and math.isfinite(y):
            points.append((i, name, 100 * share, scale * y, split, how))
    if len(points) < (1 if metric == "macs" else 2):
        return None
    label, unit = cost_label(metric), ", %" if score.is_fraction else ""

    def draw(axes: Axes, narrow: bool) -> Tips:
        for i, name, x, y, *_ in points:
            dots(axes, f"run-{i}", [x], [y], s=60, **marks.dot(i, name, narrow))
        for limits, values, least in (
            (axes.set_xlim, [p[2] for p in points], 10),
            (axes.set_ylim, [p[3] for p in points], 2),
        ):
            low, high = min(values), max(values)
            room = max(0.15 * (high - low), (least - high + low) / 2)  # noise must not look like a difference
            limits(low - room, high + room)
        axes.set(xlabel=f"{label}, % of the dense network", ylabel=f"{score.label}{unit}")
        if score.is_fraction:
            up_to_100(axes.yaxis)
        at = {i: f"{name}: {y:.2f}{unit[1:]} at {x:.1f} % of the {label}" for i, name, x, y, *_ in points}
        return {f"run-{i}": [text] for i, text in at.items()}

    better = "Up" if score.higher_is_better else "Down"
    splits = " and ".join(sorted({p[4] for p in points}))
    caption = f"{better} and to the left is better. On {splits} {runs[0].labels.samples}."
    rows = [(name, f"{x:.1f} % {how}".strip(), f"{y:.2f}{unit[1:]}", split) for _, name, x, y, split, how in points]
    height, head = 290 + 9 * len(points), ("run", label, score.label, runs[0].labels.samples)
    name = "results" if metric == "macs" else f"results-{slug(metric)}"
    return Chart(name, f"What was delivered, by {label}", caption, height, draw, head, rows)


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
            x = [100 * kept[i][g] for g in shown]
            dots(axes, f"run-{i}", x, list(shown), alpha=0.85, s=30, **marks.dot(i, name, narrow))
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
