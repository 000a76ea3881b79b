"""`autoprune profile --latency`: what the dense network takes on each backend, in all and layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autoprune.report.fitting import FittingTable
from autoprune.report.sheet import Out
from autoprune.report.tables import counted
from objectives.latency import BACKENDS, Backend, Target, Timing, make

if TYPE_CHECKING:
    from autoprune.runs.prepare import Prepared

_LAYERS = 12  # that are shown


def print_latency(out: Out, prepared: Prepared) -> None:
    """Measure and print the dense network on every backend that is here, and how good the predictors are.

    Args:
        out: Where.
        prepared: The problem; its budgets say under which settings a backend is measured.
    """
    asked = [b.target for b in prepared.problem.budgets if b.target]
    named = {t.backend for t in asked}
    every = [Target.parse(f"latency@{name}") for name in sorted(BACKENDS) if name not in named]
    table = FittingTable(title="latency of the dense network", title_justify="left")
    for column in ("backend", "median (ms)", "spread (ms)", "measured on"):
        is_number = "(ms)" in column
        table.add_column(column, justify="right" if is_number else "left", overflow="ellipsis" if is_number else "fold")
    details = []
    for target in [*asked, *every]:
        try:
            there = make(target, prepared.config.latency_command)
            timing, layers = measured(there, prepared)
        except ValueError as error:
            why = str(error).partition("': ")[2] or str(error)
            table.add_row(str(target).removeprefix("latency@"), "-", "-", why)
            continue
        about = ", ".join(f"{k} {v}" for k, v in there.about.items() if k not in ("backend", "command") and v)
        table.add_row(str(target).removeprefix("latency@"), f"{timing.median:.3f}", f"{timing.spread:.3f}", about)
        if layers:
            details.append(layers_table(target, layers))
    out.print(table)
    for each in details:
        out.print(each)
    print_quality(out, prepared)


def measured(there: Backend, prepared: Prepared) -> tuple[Timing, dict[str, float]]:
    """The dense network on one backend: in all, and per layer where the backend can tell."""
    timing = there.measure({"dense": prepared.model}, prepared.example)["dense"]
    return timing, there.profile(prepared.model, prepared.example)


def layers_table(target: Target, layers: dict[str, float]) -> FittingTable:
    """The slowest layers, and what the others take together."""
    total = sum(layers.values()) or 1.0
    slowest = sorted(layers, key=lambda name: -layers[name])
    table = FittingTable(title=f"where the time goes on {target.backend}", title_justify="left")
    for column in ("layer", "ms", "share"):
        is_name = column == "layer"
        table.add_column(column, justify="left" if is_name else "right", overflow="fold" if is_name else "ellipsis")
    for name in slowest[:_LAYERS]:
        table.add_row(name, f"{layers[name]:.3f}", f"{100 * layers[name] / total:.1f} %")
    if rest := slowest[_LAYERS:]:
        left = sum(layers[name] for name in rest)
        table.add_row(counted(len(rest), "other"), f"{left:.3f}", f"{100 * left / total:.1f} %")
    return table


def print_quality(out: Out, prepared: Any) -> None:
    """How well each predictor of a latency budget does on candidates that it has not seen."""
    for name, latency in prepared.problem.latency.items():
        out.print(f"{name}: dense {latency.dense:.3g} ms; predictor: {latency.quality}", markup=False, soft_wrap=True)
