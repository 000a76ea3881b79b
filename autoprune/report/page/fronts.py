"""Fronts of several runs on one chart, and how quickly each grew."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from autoprune.printable import decimals
from autoprune.problem import Trial, TrialState
from autoprune.report.compare import names
from autoprune.report.page import marks
from autoprune.report.page.dots import LossAxis
from autoprune.report.page.drawing import Chart, Tips
from autoprune.report.page.facts import Facts
from autoprune.report.page.front import line
from autoprune.report.page.prices import cost_label, slug

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def front_overlays(runs: Sequence[Facts]) -> list[Chart | None]:
    """Loss against each cost that some run searched the front of."""
    return [front_overlay(runs, metric) for metric in dict.fromkeys(m for f in runs for m in f.config.front)]


def front_overlay(runs: Sequence[Facts], metric: str) -> Chart | None:
    """What nothing beats in loss and one cost, of every run that can price it; None before the first candidate."""
    lines: list[tuple[int, str, list[tuple[float, Trial]]]] = []
    for i, (name, facts) in enumerate(zip(names(runs), runs, strict=True)):
        first = [t for t in _first(facts) if t.state is TrialState.COMPLETE and math.isfinite(t.loss) and not t.probe]
        if first and facts.can_price(metric):
            share = 100 * facts.priced(metric, [t.widths for t in first])
            cost = {t.number: float(c) for t, c in zip(first, share, strict=True)}
            lines.append((i, name, [(cost[t.number], t) for t in line(first, cost)]))
    if not lines:
        return None
    scale = LossAxis.of(t.loss for _, _, points in lines for _, t in points)
    label, metric_name = cost_label(metric), " or ".join(sorted({runs[i].metric for i, *_ in lines}))

    def draw(axes: Axes, narrow: bool) -> Tips:
        for i, name, points in lines:
            x, y = [c for c, _ in points], [t.loss for _, t in points]
            axes.plot(x, y, drawstyle="steps-post", marker="o", markersize=3.5, **marks.line(i, name, narrow))
        axes.set(xlabel=f"{label}, % of the dense network", ylabel=metric_name, xlim=(0, 105))
        scale.put(axes)
        return {}

    kinds = {(f.metric, f.config.fidelity) for f in (runs[i] for i, *_ in lines)}
    caption = "Down and to the left is better: what nothing beats in both, before any fine-tune."
    if len(kinds) > 1:
        caption += f" They do not compare: {', '.join(sorted(f'{m} by {f}' for m, f in kinds))}."
    also = runs[lines[0][0]].labels.headline.beside(metric_name)
    rows = [
        (name, str(t.number), f"{c:.1f} %", decimals(t.loss), *(s.shown(t.metrics) for s in also))
        for i, name, points in lines
        for c, t in points[:50]
    ]
    title = f"{metric_name[:1].upper()}{metric_name[1:]} against {label}"
    head = ("run", "trial", label, metric_name, *(s.label for s in also))
    return Chart(f"front-{slug(metric)}", title, caption, 300 + 9 * len(lines), draw, head, rows)


def hypervolume_overlay(runs: Sequence[Facts]) -> Chart | None:
    """How each front grew, of the runs with the same goals as the first that has several; None if there is none."""
    have = [(i, name, f) for i, (name, f) in enumerate(zip(names(runs), runs, strict=True)) if f.tradeoff]
    same = [(i, name, f) for i, name, f in have if f.config.front == have[0][2].config.front]
    lines = [(i, name, f.tradeoff.volumes(_first(f)), _first(f)) for i, name, f in same if f.tradeoff]
    lines = [line for line in lines if line[2] and line[2][-1]]
    if not lines:
        return None

    def draw(axes: Axes, narrow: bool) -> Tips:
        for i, name, volumes, first in lines:
            axes.plot([t.number for t in first], volumes, drawstyle="steps-post", **marks.line(i, name, narrow))
        axes.set(xlabel="trial", ylabel="hypervolume")
        axes.locator_params(axis="x", nbins=6, integer=True)
        return {}

    goals = " and ".join([same[0][2].metric, *map(cost_label, same[0][2].config.front)])
    caption = f"Higher is better: the front of {goals}."
    if other := len(have) - len(same):
        caption += f" {other} left out: with other goals."
    rows = [(name, f"{volumes[-1]:.4f}", str(len(volumes))) for _, name, volumes, _ in lines]
    head = ("run", "hypervolume", "trials")
    return Chart("hypervolume", "How the fronts grew", caption, 290 + 9 * len(lines), draw, head, rows)


def _first(facts: Facts) -> list[Trial]:
    return [t for t in facts.trials if t.fidelity == facts.config.fidelity]
