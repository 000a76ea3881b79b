"""Loss against cost: the candidates, those that nothing beats, the budget, the dense network, what was delivered."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from autoprune.problem import TrialState
from autoprune.report.page import drawing as ink
from autoprune.report.page.dots import dots, frame, says, thinned, top1
from autoprune.report.page.drawing import Chart, Tips
from autoprune.report.page.facts import Facts, cost_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def unbeaten(costs: Sequence[float], losses: Sequence[float]) -> list[int]:
    """Indices of what nothing beats in both cost and loss, cheapest first."""
    found: list[int] = []
    for i in sorted(range(len(costs)), key=lambda i: (costs[i], losses[i])):
        if losses[i] < (losses[found[-1]] if found else math.inf):
            found.append(i)
    return found


def front_chart(facts: Facts) -> Chart | None:
    """Loss against the cost of the first budget; None before the first candidate."""
    budget = facts.budgets[0]
    name = cost_label(budget.metric)
    complete = [t for t in facts.trials if t.state is TrialState.COMPLETE and math.isfinite(t.loss) and not t.probe]
    share = 100 * facts.priced(budget.metric, [t.widths for t in complete])
    cost = {t.number: float(c) for t, c in zip(complete, share, strict=True)}
    first = [t for t in complete if t.fidelity == facts.config.fidelity]
    if not first:
        return None
    best = [first[i] for i in unbeaten([cost[t.number] for t in first], [t.loss for t in first])]
    ends = {"dense": (100.0, facts.fitness("dense"))}
    if facts.export:
        (there,) = 100 * facts.priced(budget.metric, [tuple(facts.export["widths"])])
        ends["delivered"] = (float(there), facts.fitness("pruned"))
    ends = {k: point for k, point in ends.items() if math.isfinite(point[1])}
    low, high = frame(t.loss for t in complete)
    low, high = min([low, *(y for _, y in ends.values())]), max([high, *(y for _, y in ends.values())])
    low, high = low - 0.06 * (high - low), high + 0.06 * (high - low)
    kinds = {
        "all": thinned([t for t in first if t.loss <= high], best),
        "front": [t for t in best if t.loss <= high],
        "short": [t for t in complete if t.fidelity == "short" and t.loss <= high],
    }
    looks = {
        "all": {"label": "candidate", "color": ink.MUTED, "alpha": 0.45, "linewidths": 0, "s": 14},
        "front": {"label": "front", "color": ink.PRUNED, "s": 26},
        "short": {"label": "fine-tuned", "color": ink.FINAL, "marker": "D", "s": 22},
        "delivered": {"label": "delivered", "color": ink.FINAL, "marker": "*", "s": 160, "zorder": 4},
        "dense": {"label": "dense", "color": ink.INK, "marker": "s", "s": 40, "zorder": 4},
    }

    def draw(axes: Axes, narrow: bool) -> Tips:
        line = kinds["front"]
        axes.plot([cost[t.number] for t in line], [t.loss for t in line], drawstyle="steps-post", color=ink.PRUNED)
        for kind, trials in kinds.items():
            x, y = [cost[t.number] for t in trials], [t.loss for t in trials]
            dots(axes, kind, x, y, **looks[kind])  # type: ignore[arg-type]
        for kind, (share, loss) in ends.items():
            dots(axes, kind, [share], [loss], **looks[kind])  # type: ignore[arg-type]
        limit = 100 * facts.limit(budget)
        axes.axvline(
            limit,
            color=ink.BUDGET,
            linestyle=(0, (4, 3)),
            linewidth=1.5,
            label=f"budget, {100 * facts.limit(budget):.3g} %",
        )
        axes.set(xlabel=f"{name}, % of the dense network", ylabel=facts.metric, ylim=(low, high), xlim=(0, 105))
        tips = {
            kind: [f"{says(t, facts)}, {name} {cost[t.number]:.1f} %" for t in trials] for kind, trials in kinds.items()
        }
        return tips | {kind: [f"{kind}: {facts.metric} {y:.4f}, {name} {x:.1f} %"] for kind, (x, y) in ends.items()}

    caption = "Down and to the left is better; the line joins the candidates that nothing beats in both."
    if ends:
        caption += f" {' and '.join(ends).capitalize()}: on all validation images."
    rows = [
        (str(t.number), t.fidelity, f"{cost[t.number]:.1f} %", f"{t.loss:.4f}", top1(t.metrics))
        for t in (*best[-50:], *kinds["short"][-50:])
    ]
    head = ("trial", "fidelity", name, facts.metric, "top-1")
    return Chart("front", f"Loss against {name}", caption, 320, draw, head, rows)
