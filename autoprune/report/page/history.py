"""The course of a search: every trial, and the best so far."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from autoprune.printable import decimals
from autoprune.problem import Trial, TrialState
from autoprune.report.page import drawing as ink
from autoprune.report.page.dots import LossAxis, dots, says, thinned
from autoprune.report.page.drawing import Chart, Tips
from autoprune.report.page.facts import Facts
from autoprune.report.tables import counted
from autoprune.report.trials import evaluated

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def improvements(trials: Iterable[Trial]) -> list[Trial]:
    """The complete candidates that were better than all before them; probes break the budget and do not count."""
    found: list[Trial] = []
    for trial in trials:
        if trial.state is TrialState.COMPLETE and not trial.probe:
            if trial.loss < (found[-1].loss if found else math.inf):
                found.append(trial)
    return found


def history_chart(facts: Facts) -> Chart | None:
    """Loss by trial; None before the first loss."""
    scored = [t for t in facts.trials if math.isfinite(t.loss)]
    if not scored:
        return None
    scale = LossAxis.of(t.loss for t in scored)
    first = [t for t in scored if t.fidelity == facts.config.fidelity]
    steps, inside = improvements(first), [t for t in first if t.loss <= scale.high]
    trained = [t for t in scored if t.fidelity != facts.config.fidelity]
    shown = thinned(inside, steps)
    kinds = {
        "early": [t for t in shown if t.state is TrialState.PRUNED],
        "whole": [t for t in shown if t.state is TrialState.COMPLETE],
        "trained": [t for t in trained if t.loss <= scale.high],
        "failed": thinned(facts.failed, most=200),
    }
    looks = {
        "early": {"label": "abandoned early", "facecolors": "none", "edgecolors": ink.MUTED, "s": 14, "alpha": 0.6},
        "whole": {"label": "candidate", "color": ink.MUTED, "alpha": 0.6, "linewidths": 0, "s": 20},
        "trained": {"label": "fine-tuned", "color": ink.FINAL, "marker": "D", "s": 24},
        "failed": {"label": "failed", "color": ink.FAIL, "marker": "x", "s": 22},
    }

    def draw(axes: Axes, narrow: bool) -> Tips:
        for kind, trials in kinds.items():
            y = [scale.top if kind == "failed" else t.loss for t in trials]
            dots(axes, kind, [t.number for t in trials], y, **looks[kind])  # type: ignore[arg-type]
        if steps and not facts.tradeoff:
            x, y = [t.number for t in steps], [t.loss for t in steps]
            end = max(t.number for t in first)
            axes.plot([*x, end], [*y, y[-1]], drawstyle="steps-post", color=ink.PRUNED, label="best so far")
        axes.set(xlabel="trial", ylabel=facts.metric, xlim=(-1, facts.trials[-1].number + 1))
        scale.put(axes)
        axes.locator_params(axis="x", nbins=6, integer=True)
        return {kind: [says(t, facts) for t in trials] for kind, trials in kinds.items()}

    words = [evaluated(facts.trials, facts.config)]
    words += [counted(len(steps), "improvement")] * (not facts.tradeoff)
    above, left_out = sum(t.loss > scale.high for t in scored), len(inside) - len(shown)
    words += [f"{above} above the frame"] * bool(above) + [f"{left_out} of the dots left out"] * bool(left_out)
    caption = f"Lower is better: {', '.join(words)}."
    if repeats := facts.trials[-1].number + 1 - len(facts.trials):
        caption += f" {repeats} more repeated an earlier candidate and were not evaluated."
    if trained:
        caption += " Losses before and after a fine-tune do not compare."
    also = facts.labels.headline.beside(facts.metric)
    shown_trials = (*steps[-50:], *trained[-50:])
    rows = [(str(t.number), t.fidelity, decimals(t.loss), *(s.shown(t.metrics) for s in also)) for t in shown_trials]
    head = ("trial", "fidelity", facts.metric, *(s.label for s in also))
    return Chart("history", f"{facts.metric_title}, trial by trial", caption, 310, draw, head, rows)
