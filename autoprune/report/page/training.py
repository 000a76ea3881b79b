"""The final fine-tune: its training loss, step by step, and the validation loss before and after."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from autoprune.printable import decimals
from autoprune.report.page import drawing as ink
from autoprune.report.page.dots import LossAxis, dots
from autoprune.report.page.drawing import Chart, Tips
from autoprune.report.page.facts import Facts
from autoprune.report.tables import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def training_chart(facts: Facts) -> Chart | None:
    """Loss by step; None where nothing was fine-tuned, or nobody wrote it down."""
    told = facts.told("training")
    steps, losses = told.get("step", ()), told.get("loss", ())
    if not losses or len(losses) != len(steps):
        return None
    start, end = (facts.told(f"{when}_finetune_val") for when in ("before", "after"))
    ends = [(0, start.get("loss", math.nan)), (steps[-1], end.get("loss", math.nan))]
    ends = [(step, loss) for step, loss in ends if math.isfinite(loss)]
    scale = LossAxis.of(losses, [loss for _, loss in ends])

    def draw(axes: Axes, narrow: bool) -> Tips:
        axes.plot(steps, losses, color=ink.PRUNED, linewidth=1.5, label="training")
        if len(losses) == 1:
            axes.plot(steps, losses, color=ink.PRUNED, marker="o")
        x, y = [step for step, _ in ends], [loss for _, loss in ends]
        dots(axes, "validation", x, y, "validation, before and after", color=ink.FINAL, marker="D", s=34, zorder=4)
        axes.set(xlabel="training step", ylabel="loss", xlim=(-0.02 * steps[-1], 1.02 * steps[-1]))
        scale.put(axes)
        axes.locator_params(axis="x", nbins=4 if narrow else 6, integer=True)
        return {
            "validation": [f"after {counted(step, 'step')}: validation loss {decimals(loss)}" for step, loss in ends]
        }

    mean = "" if len(steps) == steps[-1] else f"; each point is the mean of about {round(steps[-1] / len(steps))}"
    caption = f"{counted(steps[-1], 'step')}{mean}."
    if weight := told.get("distill"):
        caption += f" {100 * weight:.0f} % of the training loss is the distance to the dense network's answers."
    if start and end:
        caption += f" Delivered is the network {_delivered(facts)}."
    caption += (
        f" Training {facts.labels.samples} are seen while the network learns, and augmented "
        "where the data are; so the two losses do not compare."
    )
    rows = [(str(step), decimals(loss)) for step, loss in zip(steps, losses, strict=True)]
    return Chart("training", "The final fine-tune", caption, 310, draw, ("training step", "training loss"), rows)


def _delivered(facts: Facts) -> str:
    """Which of the networks that a run had in the end is the one it delivers."""
    if facts.told("finalist_val").get("delivered"):
        return "as it was as a finalist, after the short fine-tune"
    return f"from {'before' if facts.told('before_finetune_val').get('delivered') else 'after'} it"
