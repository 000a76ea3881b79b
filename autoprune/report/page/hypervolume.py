"""How a front grew: the hypervolume, trial by trial."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoprune.report.fronts import nearly_all, reference
from autoprune.report.page import drawing as ink
from autoprune.report.page.dots import dots, says
from autoprune.report.page.drawing import Chart, Tips
from autoprune.report.page.facts import Facts
from autoprune.report.tables import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def hypervolume_chart(facts: Facts) -> Chart | None:
    """Hypervolume by trial; None if there is one goal only, or nothing is better than the reference yet."""
    if facts.tradeoff is None:
        return None
    first = [t for t in facts.trials if t.fidelity == facts.config.fidelity]
    volumes = facts.tradeoff.volumes(first)
    if not volumes or not volumes[-1]:
        return None
    rises = [i for i, v in enumerate(volumes) if v > (volumes[i - 1] if i else 0.0)]
    numbers, enough = [t.number for t in first], first[nearly_all(volumes) - 1].number

    def draw(axes: Axes, narrow: bool) -> Tips:
        axes.plot(numbers, volumes, drawstyle="steps-post", color=ink.PRUNED)
        look = {"label": "the front grew", "color": ink.PRUNED, "s": 18, "linewidths": 0}
        dots(axes, "rises", [numbers[i] for i in rises], [volumes[i] for i in rises], **look)  # type: ignore[arg-type]
        label = f"99 % by trial {enough}"
        axes.axvline(enough, color=ink.BUDGET, linestyle=(0, (4, 3)), linewidth=1.5, label=label)
        axes.set(xlabel="trial", ylabel="hypervolume", xlim=(-1, numbers[-1] + 1))
        axes.locator_params(axis="x", nbins=6, integer=True)
        return {"rises": [f"{says(first[i], facts)}: hypervolume {volumes[i]:.4f}" for i in rises]}

    caption = (
        f"Higher is better: the share {reference(facts.tradeoff, facts.metric)}. It is {volumes[-1]:.4f} after "
        f"{counted(len(first), 'candidate')}; where the line is still rising, more would help."
    )
    rows = [(str(numbers[i]), f"{volumes[i]:.4f}") for i in rises[-50:]]
    return Chart("hypervolume", "How the front grew", caption, 310, draw, ("trial", "hypervolume"), rows)
