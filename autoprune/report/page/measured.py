"""Finalists that were measured on the device beside the dense network, against what was predicted of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from autoprune.report.page import drawing as ink
from autoprune.report.page.dots import dots
from autoprune.report.page.drawing import Chart, Tips
from autoprune.report.page.facts import Facts
from autoprune.report.page.prices import cost_label, milliseconds, slug
from autoprune.report.tables import counted
from objectives.latency import Comparison
from search_spaces import Widths

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Point(NamedTuple):
    """A network that was measured beside the dense one: its name, whether it held, predicted and measured."""

    name: str
    holds: bool
    predicted: float  # share of the dense network
    predicted_ms: float
    took: Comparison


def points(facts: Facts, metric: str) -> list[Point]:
    """The networks of a run that were measured on a device, in that order."""
    numbers = {t.widths: t.number for t in facts.trials}  # the last evaluation of each
    found = []
    for each in facts.measurements:
        if metric in each.took:
            name = f"trial {numbers[each.widths]}" if each.widths in numbers else "a candidate"
            (share,) = facts.priced(metric, [each.widths])
            predicted_ms = facts.price(metric, each.widths)
            found.append(Point(name, each.holds, float(share), predicted_ms, each.took[metric]))
    return found


def took_of(facts: Facts, metric: str, widths: Widths) -> Comparison | None:
    """What a network took when it was last measured; None if it never was."""
    return next((m.took[metric] for m in reversed(facts.measurements) if m.widths == widths and metric in m.took), None)


def measured_chart(facts: Facts, metric: str) -> Chart | None:
    """Predicted against measured, as shares of the dense network; None before a network was measured."""
    found = points(facts, metric)
    if not found:
        return None
    limits = [facts.limit(b) for b in facts.budgets if b.metric == metric]
    kinds = {"held": [p for p in found if p.holds], "broke": [p for p in found if not p.holds]}
    looks = {
        "held": {"label": "held all budgets", "color": ink.FINAL, "marker": "D", "s": 34},
        "broke": {"label": "broke a budget", "color": ink.FAIL, "marker": "x", "s": 34},
    }
    ends = [100 * x for p in found for x in (p.predicted, p.took.share)] + [100 * x for x in limits]
    room = max(2.0, 0.15 * (max(ends) - min(ends)))
    low, high = min(ends) - room, max(ends) + room

    def draw(axes: Axes, narrow: bool) -> Tips:
        axes.plot([low, high], [low, high], color=ink.DENSE, linewidth=1.2, label="as predicted")
        for kind, some in kinds.items():
            x, y = [100 * p.took.share for p in some], [100 * p.predicted for p in some]
            error = [200 * p.took.share_error for p in some]
            axes.errorbar(x, y, xerr=error, fmt="none", ecolor=ink.MUTED, elinewidth=1, capsize=2)
            dots(axes, kind, x, y, **looks[kind])  # type: ignore[arg-type]
        for limit in limits:
            axes.axvline(
                100 * limit,
                color=ink.BUDGET,
                linestyle=(0, (4, 3)),
                linewidth=1.5,
                label=f"budget, {100 * limit:.3g} %",
            )
        axes.set(xlabel="measured, % of the dense network", ylabel="predicted, %", xlim=(low, high), ylim=(low, high))
        return {kind: [_says(p) for p in some] for kind, some in kinds.items()}

    off = [100 * (p.took.share / p.predicted - 1) for p in found]
    caption = (
        f"{counted(len(found), 'network')} measured beside the dense one; bars are two standard errors. {_bias(off)}"
    )
    rows = [
        (
            p.name,
            f"{milliseconds(p.predicted_ms)} ms",
            f"{milliseconds(p.took.pruned_ms)} ± {p.took.pruned_spread_ms:.1g} ms",
            f"{100 * p.predicted:.1f} %",
            f"{100 * p.took.share:.1f} ± {100 * p.took.share_error:.1f} %",
            "held" if p.holds else "broken",
        )
        for p in found
    ]
    head = ("network", "predicted", "measured", "predicted, of dense", "measured, of dense", "budgets")
    label = cost_label(metric)
    return Chart(f"measured-{slug(metric)}", f"Predicted and measured {label}", caption, 300, draw, head, rows)


def _says(point: Point) -> str:
    took = point.took
    return (
        f"{point.name}: measured {100 * took.share:.1f} % ± {100 * took.share_error:.1f} of the dense network, "
        f"{milliseconds(took.pruned_ms)} ms; predicted {100 * point.predicted:.1f} %"
    )


def _bias(off: Sequence[float]) -> str:
    """How much slower than predicted networks were, in words.

    Args:
        off: Of each, in percent of what was predicted.
    """
    worst, mean = max(off, key=abs), math.fsum(off) / len(off)
    words = f"{abs(mean):.1f} % {'slower' if mean > 0 else 'faster'} than predicted"
    return f"{words}." if len(off) == 1 else f"On average {words}, {abs(worst):.1f} % off at worst."
