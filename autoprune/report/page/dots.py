"""Trials as dots: what history, front and overlay have in common."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from autoprune.problem import Trial, TrialState
from autoprune.report.page.facts import Facts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE = 20  # losses that differ by more than this factor are drawn on a logarithmic scale
MOST = 1200  # dots in one chart: more only make the file larger


def dots(axes: Axes, name: str, x: Sequence[float], y: Sequence[float], label: str, **style: Any) -> None:
    """Draw dots, if there are any, as the artist called `name`."""
    if len(x):
        axes.scatter(x, y, label=label, **{"zorder": 2.5, **style}).set_gid(name)


def thinned(trials: Sequence[Trial], keep: Iterable[Trial] = (), most: int = MOST) -> list[Trial]:
    """At most about `most` of the trials, evenly spread, and all that are to be kept."""
    if len(trials) <= most:
        return list(trials)
    wanted = {trials[i].number for i in np.linspace(0, len(trials) - 1, most).round().astype(int)}
    wanted |= {t.number for t in keep}
    return [t for t in trials if t.number in wanted]


def frame(losses: Iterable[float]) -> tuple[float, float]:
    """The part of the loss axis that is worth showing: all of it, unless a few losses would flatten the rest."""
    values = np.array([x for x in losses if math.isfinite(x)])
    if not len(values):
        return 0.0, 1.0
    low, usual, high = float(values.min()), float(np.quantile(values, 0.9)), float(values.max())
    high = min(high, low + 3 * (usual - low)) if usual > low else high
    room = 0.06 * (high - low) if high - low > 1e-6 * abs(high) else 0.05 * abs(high) or 0.5
    return low - room, high + room


@dataclass(frozen=True)
class LossAxis:
    """Which losses are shown, and on which scale.

    Attributes:
        low: The end at the bottom.
        high: The end at the top; few losses lie above it.
        is_log: Whether the scale is logarithmic: small differences between good candidates would be invisible else.
    """

    low: float
    high: float
    is_log: bool

    @classmethod
    def of(cls, losses: Iterable[float], always: Iterable[float] = ()) -> LossAxis:
        """For these losses.

        Args:
            losses: Few of them may lie above.
            always: Inside, however large they are.
        """
        values, inside = ([x for x in some if math.isfinite(x)] for some in (losses, always))
        low, high = frame(values)
        if inside and (min(inside) < low or max(inside) > high):
            low, high = min(low, *inside), max(high, *inside)
            low, high = low - 0.06 * (high - low), high + 0.06 * (high - low)
        least = min([*values, *inside], default=0.0)
        return cls(least / 1.3, 1.3 * high, True) if 0 < WIDE * least < high else cls(low, high, False)

    @property
    def top(self) -> float:
        """Just below the upper end."""
        return self.high / (self.high / self.low) ** 0.03 if self.is_log else self.high - 0.03 * (self.high - self.low)

    def put(self, axes: Axes) -> None:
        """Set the axis up, with at least three labels."""
        axes.set_ylim(self.low, self.high)
        if self.is_log:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("")
            axes.set_yticks(log_ticks(self.low, self.high))


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers on a logarithmic scale, from `low` to `high`: powers of ten, or more where those are few."""
    decades = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    ticks: list[float] = []
    for digits in ((1,), (1, 3), (1, 2, 5), range(1, 10)):
        ticks = [float(f"{digit}e{power}") for power in decades for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 3:
            break
    return ticks[:: math.ceil(len(ticks) / 8)]


def says(trial: Trial, facts: Facts) -> str:
    """What a dot says under the mouse."""
    if trial.state is TrialState.FAIL:
        return f"trial {trial.number} failed: {trial.error[:200]}"
    also = [s for s in facts.labels.headline.beside(facts.metric) if s.name in trial.metrics]
    known = "".join(f", {s.label} {s.shown(trial.metrics)}" for s in also)
    return f"trial {trial.number}, {trial.fidelity}: {facts.metric} {trial.loss:.4f}{known}"
