"""How far the predicted milliseconds can be trusted: the predictor's error on candidates held out of its fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from autoprune.report.page import drawing as ink
from autoprune.report.page.dots import dots
from autoprune.report.page.drawing import Chart, Tips
from autoprune.report.page.facts import Facts
from autoprune.report.page.measured import points
from autoprune.report.page.prices import amount, cost_label, slug
from autoprune.report.tables import counted
from objectives.latency import Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SETTINGS = ("backend", "command", "device", "threads", "system")  # of `Latency.about`; the rest are versions
ACCURATE, RANKED = 8.0, 0.95  # an error in percent, and a rank correlation, that are good enough to search with
LOOKS = {
    "held-out": {"label": "held out", "color": ink.PRUNED, "alpha": 0.7, "linewidths": 0, "s": 20},
    "finalists": {"label": "finalist", "color": ink.FINAL, "marker": "D", "s": 30},
}


class Card(NamedTuple):
    """What is known of one predictor: its name, whether it is good enough, and lines of a name and words."""

    title: str
    verdict: str
    lines: list[tuple[str, str]]


def cards(facts: Facts) -> list[Card]:
    """One for every latency that the run predicts."""
    return [_card(facts, metric) for metric in facts.latency]


def _card(facts: Facts, metric: str) -> Card:
    latency, target = facts.latency[metric], Target.parse(metric)
    quality, about = latency.quality, latency.about
    dense = amount(metric, facts.price(metric, facts.space.full))
    lines = [
        ("Error", f"{quality.mape:.1f} % on average, {quality.worst:.1f} % at worst"),
        ("Rank correlation", f"{quality.spearman:.3f} (Spearman)"),
        ("Candidates", f"{quality.candidates} measured; each predicted by a fit that had not seen it"),
        ("Dense network", f"{amount(metric, latency.dense)} measured, {dense} predicted"),
        ("Backend", f"{target.backend}, batch {target.batch}, {counted(target.threads, 'thread')}, {target.device}"),
        ("Device", ", ".join(about[k] for k in ("device", "system") if about.get(k))),
        ("Command", about.get("command", "")),
        ("Versions", ", ".join(f"{k} {v}" for k, v in about.items() if k not in SETTINGS and v)),
    ]
    words = verdict(quality.mape, quality.spearman)
    off = [100 * abs(p.took.share / p.predicted - 1) for p in points(facts, metric)]
    if not off:
        words += " No network of this run has been measured beside the dense one."
    elif (mean := sum(off) / len(off)) > ACCURATE:
        words += f" But it was {mean:.0f} % off, on average, on the networks that this run measured: trust those."
    label = cost_label(metric)
    return Card(label[0].upper() + label[1:], words, [(name, value) for name, value in lines if value])


def predictor_chart(facts: Facts, metric: str) -> Chart | None:
    """Predicted against measured milliseconds; None where the run has not kept those of the held-out candidates.

    Finalists stand where they would have in the minutes in which the predictor was made: at their share of what the
    dense network took then.
    """
    latency = facts.latency[metric]
    if not latency.quality.points:
        return None
    found = points(facts, metric)
    kinds = {
        "held-out": [("held out", ms, predicted) for predicted, ms in latency.quality.points],
        "finalists": [(p.name, p.took.share * latency.dense, p.predicted_ms) for p in found],
    }
    every = [ms for some in kinds.values() for _, *both in some for ms in both]
    ends = min(every) - 0.05 * max(every), 1.05 * max(every)

    def draw(axes: Axes, narrow: bool) -> Tips:
        below, above = ([x * share for x in ends] for share in (1 - ACCURATE / 100, 1 + ACCURATE / 100))
        axes.fill_between(ends, below, above, color=ink.GRID, linewidth=0)
        axes.plot(ends, ends, color=ink.MUTED, linewidth=1.2, label=f"as predicted, ± {ACCURATE:.0f} %")
        for kind, some in kinds.items():
            dots(axes, kind, [x for _, x, _ in some], [y for _, _, y in some], **LOOKS[kind])  # type: ignore[arg-type]
        axes.set(xlabel="measured, ms", ylabel="predicted, ms", xlim=ends, ylim=ends)
        return {
            kind: [f"{name}: measured {amount(metric, x)}, predicted {amount(metric, y)}" for name, x, y in some]
            for kind, some in kinds.items()
        }

    caption = f"{counted(len(latency.quality.points), 'candidate')}. Above the line: quicker than predicted."
    if found:
        caption += " Finalists are drawn at the pace that the machine had when the predictor was made."
    rows = [
        (name, amount(metric, x), amount(metric, y), f"{100 * (y / x - 1):+.1f} %".replace("-", "−"))
        for some in kinds.values()
        for name, x, y in sorted(some, key=lambda row: row[1])
    ]
    label = cost_label(metric)
    head = ("network", "measured", "predicted", "off by")
    return Chart(f"predictor-{slug(metric)}", f"BudgetRow-out candidates, {label}", caption, 300, draw, head, rows)


def verdict(mape: float, spearman: float) -> str:
    """Whether a search may rely on such a predictor, in words.

    Args:
        mape: Mean absolute error on held-out candidates, in percent.
        spearman: Rank correlation on them.
    """
    faults = [f"is off by more than {ACCURATE:.0f} %"] * (not mape <= ACCURATE)
    faults += [f"orders candidates with a rank correlation below {RANKED}"] * (not spearman >= RANKED)
    if not faults:
        return f"Good on held-out candidates (error at most {ACCURATE:.0f} %, rank correlation at least {RANKED})."
    return f"Not good enough to rely on: it {' and '.join(faults)} on held-out candidates."
