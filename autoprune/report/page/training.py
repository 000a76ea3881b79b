"""Trainings: the loss, step by step; of the final fine-tune also the validation loss before and after."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autoprune.printable import decimals
from autoprune.report.page import drawing as ink
from autoprune.report.page.dots import LossAxis, dots
from autoprune.report.page.drawing import Chart, Tips
from autoprune.report.page.facts import Facts
from autoprune.report.tables import counted
from autoprune.report.trained import METHOD_TRAINING

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def training_chart(facts: Facts) -> Chart | None:
    """Loss of the final fine-tune; None where nothing was fine-tuned, or nobody wrote it down."""
    told = facts.told("training")
    if not (course := _course(told)):
        return None
    steps = course[0]
    start, end = (facts.told(f"{when}_finetune_val") for when in ("before", "after"))
    ends = [(0, start.get("loss", math.nan)), (steps[-1], end.get("loss", math.nan))]
    ends = [(step, loss) for step, loss in ends if math.isfinite(loss)]
    caption = _length(steps)
    if weight := told.get("distill"):
        caption += f" {100 * weight:.0f} % of the training loss is the distance to the dense network's answers."
    if start and end:
        caption += f" Delivered is the network {_delivered(facts)}."
    caption += (
        f" Training {facts.labels.samples} are seen while the network learns, and augmented "
        "where the data are; so the two losses do not compare."
    )
    return _chart("training", "The final fine-tune", caption, course, ends)


def method_chart(facts: Facts) -> Chart | None:
    """Loss of the training in which a method chose the units; None where nobody wrote it down."""
    if not (course := _course(facts.told(METHOD_TRAINING))):
        return None
    caption = f"{_length(course[0])} The dense network is trained, and {facts.config.method} chooses what goes."
    return _chart("method", f"Training with {facts.config.method}", caption, course)


Course = tuple[list[int], list[float]]  # steps, and the mean loss since the one before


def _course(told: Mapping[str, Any]) -> Course | None:
    steps, losses = told.get("step", ()), told.get("loss", ())
    return (list(steps), list(losses)) if losses and len(losses) == len(steps) else None


def _length(steps: Sequence[int]) -> str:
    mean = "" if len(steps) == steps[-1] else f"; each point is the mean of about {round(steps[-1] / len(steps))}"
    return f"{counted(steps[-1], 'step')}{mean}."


def _chart(name: str, title: str, caption: str, course: Course, ends: Sequence[tuple[int, float]] = ()) -> Chart:
    """The loss of a training, and validation losses at some of its steps."""
    steps, losses = course
    scale = LossAxis.of(losses, [loss for _, loss in ends])

    def draw(axes: Axes, narrow: bool) -> Tips:
        axes.plot(steps, losses, color=ink.PRUNED, linewidth=1.5, label="training")
        if len(losses) == 1:
            axes.plot(steps, losses, color=ink.PRUNED, marker="o")
        if ends:
            x, y = [step for step, _ in ends], [loss for _, loss in ends]
            dots(axes, "validation", x, y, "validation, before and after", color=ink.FINAL, marker="D", s=34, zorder=4)
        axes.set(xlabel="training step", ylabel="loss", xlim=(-0.02 * steps[-1], 1.02 * steps[-1]))
        scale.put(axes)
        axes.locator_params(axis="x", nbins=4 if narrow else 6, integer=True)
        said = [f"after {counted(step, 'step')}: validation loss {decimals(loss)}" for step, loss in ends]
        return {"validation": said} if said else {}

    rows = [(str(step), decimals(loss)) for step, loss in zip(steps, losses, strict=True)]
    return Chart(name, title, caption, 310, draw, ("training step", "training loss"), rows)


def _delivered(facts: Facts) -> str:
    """Which of the networks that a run had in the end is the one it delivers."""
    if facts.told("finalist_val").get("delivered"):
        return "as it was as a finalist, after the short fine-tune"
    return f"from {'before' if facts.told('before_finetune_val').get('delivered') else 'after'} it"
