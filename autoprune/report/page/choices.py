"""Which widths did well: for every group of layers, those of all candidates, of the best, and of the network chosen.

Under one budget all candidates cost about the same, and a chart of loss against cost is one vertical line. What they
differ in is where they spend the budget.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.report.page import drawing as ink
from autoprune.report.page.bars import BARS, shortened
from autoprune.report.page.dots import dots
from autoprune.report.page.drawing import Chart, Tips
from autoprune.report.page.facts import Facts
from autoprune.report.tables import counted
from autoprune.schedule import ranked

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BEST = 0.2  # of the candidates are called the best


def choices_chart(facts: Facts) -> Chart | None:
    """The ranges of widths, group by group; None before there are three candidates, or anything to choose."""
    first = [t for t in ranked(facts.trials) if t.fidelity == facts.config.fidelity]
    groups, chosen = facts.space.groups, facts.widths
    if len(first) < 3 or not groups or chosen is None:
        return None
    best = first[: max(2, round(BEST * len(first)))]
    ranges = {
        key: [(min(widths), max(widths)) for widths in zip(*(t.widths for t in some), strict=True)]
        for key, some in (("all", first), ("best", best))
    }
    shown = range(min(BARS, len(groups)))
    looks = {
        "all": {"height": 0.22, "color": ink.DENSE, "label": "all candidates"},
        "best": {"height": 0.5, "color": ink.PRUNED, "label": f"the best {len(best)}"},
    }
    which = "delivered" if facts.export else "best so far"

    def share(width: int, g: int) -> float:
        return 100 * width / groups[g].size

    def draw(axes: Axes, narrow: bool) -> Tips:
        tips = {}
        for key, some in ranges.items():
            low, high = ([share(some[g][end], g) for g in shown] for end in (0, 1))
            least = [max(0.8, b - a) for a, b in zip(low, high, strict=True)]  # one width is still to be seen
            drawn = axes.barh(shown, least, left=low, **looks[key])  # type: ignore[arg-type]
            for g, patch in enumerate(drawn):
                patch.set_gid(f"{key}-{g}")
                tips[f"{key}-{g}"] = [f"{groups[g].name}, {looks[key]['label']}: {_span(some[g])} of {groups[g].size}"]
        x, look = [share(chosen[g], g) for g in shown], {"color": ink.FINAL, "marker": "D", "s": 30, "zorder": 4}
        dots(axes, "chosen", x, list(shown), which, **look)
        axes.set_yticks(shown, [shortened(groups[g].name, 17 if narrow else 30) for g in shown], fontsize=10)
        axes.set(xlabel="channels kept, %", xlim=(0, 104), ylim=(len(shown) - 0.4, -0.6))
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
        return tips | {"chosen": [f"{groups[g].name}, {which}: {chosen[g]} of {groups[g].size}" for g in shown]}

    caption = (
        f"{counted(len(first), 'candidate')} of about the same cost: they differ in where they spend the budget. Where "
        f"the blue bar is short, the best {len(best)} agree."
    )
    if len(shown) < len(groups):
        caption += f" Drawn are the first {len(shown)} of {len(groups)} groups; the table has all."
    rows = [
        (g.name, g.counted(g.size), _span(ranges["all"][i]), _span(ranges["best"][i]), str(chosen[i]))
        for i, g in enumerate(groups)
    ]
    head = ("group", "dense", "all candidates", f"best {len(best)}", which)
    return Chart("choices", "Which widths did well", caption, 110 + 24 * len(shown), draw, head, rows)


def _span(ends: tuple[int, int]) -> str:
    low, high = ends
    return str(low) if low == high else f"{low} to {high}"
