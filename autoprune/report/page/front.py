"""Loss against cost: the candidates, those that nothing beats, the budget, the dense network, what was delivered."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from autoprune.fidelity import FINAL
from autoprune.printable import decimals
from autoprune.problem import Trial, TrialState
from autoprune.report.page import drawing as ink
from autoprune.report.page.choices import choices_chart
from autoprune.report.page.dots import WIDE, LossAxis, dots, frame, says, thinned
from autoprune.report.page.drawing import Chart, Tips
from autoprune.report.page.facts import Facts
from autoprune.report.page.prices import cost_label, slug
from autoprune.report.trials import by_percent
from autoprune.schedule import ranked

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOOKS = {
    "all": {"label": "candidate", "color": ink.MUTED, "alpha": 0.45, "linewidths": 0, "s": 14},
    "front": {"label": "front", "color": ink.PRUNED, "s": 26},
    "short": {"label": "fine-tuned", "color": ink.FINAL, "marker": "D", "s": 22},
    "delivered": {"label": "delivered", "color": ink.FINAL, "marker": "*", "s": 160, "zorder": 4},
    "dense": {"label": "dense", "color": ink.INK, "marker": "s", "s": 40, "zorder": 4},
}


def unbeaten(costs: Sequence[float], losses: Sequence[float]) -> list[int]:
    """Indices of what nothing beats in both cost and loss, cheapest first."""
    found: list[int] = []
    for i in sorted(range(len(costs)), key=lambda i: (costs[i], losses[i])):
        if losses[i] < (losses[found[-1]] if found else math.inf):
            found.append(i)
    return found


def front_charts(facts: Facts) -> list[Chart | None]:
    """Loss against each cost of the front; without one, against that of the first budget (if they can be priced).

    Under one budget all candidates may cost the same: then what differs is drawn, their widths.
    """
    if front := [metric for metric in facts.config.front if facts.can_price(metric)]:
        return [front_chart(facts, metric) for metric in front]
    metric = next((b.metric for b in facts.budgets if facts.can_price(b.metric)), "macs")
    return [(None if differ(facts, metric) else choices_chart(facts)) or front_chart(facts, metric)]


def differ(facts: Facts, metric: str) -> bool:
    """Whether there is a choice between cost and loss: more than two costs, in whole percents, that nothing beats."""
    first = [t for t in ranked(facts.trials) if t.fidelity == facts.config.fidelity]
    shares = facts.priced(metric, [t.widths for t in first])
    return len(by_percent(first, {t.number: float(s) for t, s in zip(first, shares, strict=True)})) > 2


def front_chart(facts: Facts, metric: str) -> Chart | None:
    """Loss against one cost; None before the first candidate."""
    name, is_first = cost_label(metric), metric == (facts.config.front or (metric,))[0]
    complete = [t for t in facts.trials if t.state is TrialState.COMPLETE and math.isfinite(t.loss) and not t.probe]
    share = 100 * facts.priced(metric, [t.widths for t in complete])
    cost = {t.number: float(c) for t, c in zip(complete, share, strict=True)}
    first = [t for t in complete if t.fidelity == facts.config.fidelity]
    if not first:
        return None
    best, short = line(first, cost), [t for t in complete if t.fidelity == FINAL]
    ends = _ends(facts, metric)
    low, high = _frame(facts, complete, [y for _, y in ends.values()])
    scale = LossAxis(low, high, bool(facts.config.front) and low > 0 and high > WIDE * low)
    kinds = {
        "all": thinned([t for t in first if t.loss <= high], best),
        "front": [t for t in best if t.loss <= high],
        "short": [t for t in short if t.loss <= high],
    }
    limits = [100 * facts.limit(b) for b in facts.budgets if b.metric == metric][:1]
    left, right = (0.0, 105.0) if facts.config.front else _around([*cost.values(), *limits])

    def draw(axes: Axes, narrow: bool) -> Tips:
        lines = {ink.PRUNED: kinds["front"]} | ({ink.FINAL: line(kinds["short"], cost)} if facts.config.front else {})
        for color, points in lines.items():
            x, y = [cost[t.number] for t in points], [t.loss for t in points]
            axes.plot(x, y, drawstyle="steps-post", color=color)
        for kind, trials in kinds.items():
            x, y = [cost[t.number] for t in trials], [t.loss for t in trials]
            dots(axes, kind, x, y, **LOOKS[kind])  # type: ignore[arg-type]
        for kind, (share, loss) in ends.items():
            if share <= right:
                dots(axes, kind, [share], [loss], **LOOKS[kind])  # type: ignore[arg-type]
            else:  # the axis shows where the candidates are
                axes.axhline(
                    loss, color=ink.INK, linestyle=(0, (1, 2)), linewidth=1.2, label=f"{kind}, at {share:.0f} %"
                )
        for limit in limits:
            label = f"budget, {limit:.3g} %"
            axes.axvline(limit, color=ink.BUDGET, linestyle=(0, (4, 3)), linewidth=1.5, label=label)
        axes.set(xlabel=f"{name}, % of the dense network", ylabel=facts.metric, xlim=(left, right))
        scale.put(axes)
        tips = {
            kind: [f"{says(t, facts)}, {name} {cost[t.number]:.1f} %" for t in trials] for kind, trials in kinds.items()
        }
        return tips | {
            kind: [f"{kind}: {facts.metric} {decimals(y)}, {name} {x:.1f} %"] for kind, (x, y) in ends.items()
        }

    joins = (
        "lines join what nothing beats in both, quickly scored and fine-tuned"
        if facts.config.front
        else ("line joins the candidates that nothing beats in both")
    )
    caption = f"Down and to the left is better; the {joins}."
    if above := sum(t.loss > high for t in complete):
        caption += f" {above} above the frame."
    if ends:
        caption += f" {' and '.join(ends).capitalize()}: on all validation {facts.labels.samples}."
    also = facts.labels.headline.beside(facts.metric)
    rows = [
        (str(t.number), t.fidelity, f"{cost[t.number]:.1f} %", decimals(t.loss), *(s.shown(t.metrics) for s in also))
        for t in (*best[-50:], *short[-50:])
    ]
    head = ("trial", "fidelity", name, facts.metric, *(s.label for s in also))
    where = "front" if is_first else f"front-{slug(metric)}"
    return Chart(where, f"{facts.metric_title} against {name}", caption, 320, draw, head, rows)


def line(trials: Sequence[Trial], cost: Mapping[int, float]) -> list[Trial]:
    """Those that nothing beats in cost and loss."""
    return [trials[i] for i in unbeaten([cost[t.number] for t in trials], [t.loss for t in trials])]


def _around(costs: Sequence[float]) -> tuple[float, float]:
    """The part of the cost axis where these costs are, in percent."""
    low, high = min(costs), max(costs)
    room = 0.08 * (high - low) or 1.0
    return max(0.0, low - room), high + room


def _ends(facts: Facts, metric: str) -> dict[str, tuple[float, float]]:
    """Cost in percent and loss of the dense network and of the delivered one, as far as they are known."""
    ends = {"dense": (100.0, facts.fitness("dense"))}
    if facts.export:
        (there,) = 100 * facts.priced(metric, [tuple(facts.export["widths"])])
        ends["delivered"] = (float(there), facts.fitness("pruned"))
    return {kind: point for kind, point in ends.items() if math.isfinite(point[1])}


def _frame(facts: Facts, complete: Sequence[Trial], ends: Sequence[float]) -> tuple[float, float]:
    """The part of the loss axis that is worth showing: of a front, up to where a network is worth nothing."""
    losses = [t.loss for t in complete]
    if facts.tradeoff is None:
        low, high = frame(losses)
        low, high = min([low, *ends]), max([high, *ends])
        return low - 0.06 * (high - low), high + 0.06 * (high - low)
    losses = [x for x in losses if x <= facts.tradeoff.worst] or losses
    low, high = min([*losses, *ends]), max([*losses, *ends])
    return (low / 1.3 if low > 0 else low - 0.06 * (high - low)), 1.15 * high
