"""`LatencyMeter`: measures networks of a run on the devices of its latency budgets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict

from autoprune.ledger.measurements import Measurement, used
from autoprune.runs.correcting import binding
from autoprune.runs.prepare import Prepared
from objectives import Budget
from objectives.latency import Backend, Build, Comparison, backends, compare, rebatched
from search_spaces import Widths

PACE = 0.1  # the user is told if the dense network's time has changed by more


class LatencyMeter:
    """Measures candidates beside the dense network, as they would be delivered.

    The device is the one that this process sees: that of the driver on a cluster, that of the leader where several
    controllers search. A budget on `latency@command` measures wherever its command goes.

    Args:
        prepared: The problem.
        budgets: What must hold.
        say: Where to tell what was measured.
    """

    def __init__(self, prepared: Prepared, budgets: Iterable[Budget], say: Callable[[str], None]) -> None:
        self.budgets = binding(budgets)
        self._prepared, self.say = prepared, say
        self._builds: dict[str, tuple[Backend, Build]] = {}
        self._warned: set[str] = set()

    def __call__(self, widths: Widths, name: str = "") -> Measurement:
        """Measure a network on every device.

        Args:
            widths: Of the network.
            name: What to call it.

        Raises:
            ValueError: If a device is no longer there, or refuses the network.
        """
        took = {metric: self._compare(metric, widths) for metric in dict.fromkeys(b.metric for b in self.budgets)}
        latency = self._prepared.problem.latency
        holds = all(used(b, took[b.metric], latency[b.metric].dense) <= 1 for b in self.budgets)
        found = Measurement(widths, took, holds)
        inside = all(b.relative and took[b.metric].share <= b.limit for b in self.budgets)
        why = ": two standard errors more are too many" if inside else ""
        verdict = "holds" if holds else f"does not hold{why}"
        self.say(f"{name}{': ' * bool(name)}{self.describe(found)}: {verdict}")
        return found

    def figures(self, found: Measurement) -> dict[str, dict[str, float]]:
        """What an export says about it, by metric: see `Comparison`, and what was predicted."""
        said = {}
        for metric, took in found.took.items():
            latency = self._prepared.problem.latency[metric]
            predicted = latency(found.widths)
            share = predicted / latency(self._prepared.space.full)
            said[metric] = {**asdict(took), "predicted_ms": predicted, "predicted_share": share}
        return said

    def describe(self, found: Measurement) -> str:
        """One sentence: measured, spread, predicted, budget."""
        parts = []
        for budget in self.budgets:
            took, said = found.took[budget.metric], self.figures(found)[budget.metric]
            share = f"{100 * took.share:.1f} % ± {100 * took.share_error:.1f} of the dense network"
            ms = f"{took.pruned_ms:.3g} ± {took.pruned_spread_ms:.1g} of {took.dense_ms:.3g} ms"
            predicted = f"{100 * said['predicted_share']:.1f} %, {said['predicted_ms']:.3g} ms"
            parts.append(f"{budget}: measured {share} ({ms}), predicted {predicted}")
        return "; ".join(parts)

    def _compare(self, metric: str, widths: Widths) -> Comparison:
        prepared = self._prepared
        if metric not in self._builds:
            self.say(f"measuring for {metric}: networks as they would be delivered, beside the dense one ...")
            there = backends([b for b in self.budgets if b.metric == metric], prepared.config.latency_command)[metric]
            example = rebatched(prepared.example, there.setting.batch)
            with there.ready():
                self._builds[metric] = there, there.candidates(prepared.model, prepared.space, example, delivered=True)
        backend, build = self._builds[metric]
        with backend.ready():
            found = compare(backend, build, prepared.space.full, widths)
        self._warn(metric, found)
        return found

    def _warn(self, metric: str, found: Comparison) -> None:
        """Say once that the machine is not as quick as it was, or quicker."""
        before = self._prepared.problem.latency[metric].dense
        if metric not in self._warned and abs(found.dense_ms / before - 1) > PACE:
            self._warned.add(metric)
            self.say(
                f"{metric}: the dense network takes {found.dense_ms:.3g} ms now, {before:.3g} ms when the predictor "
                "was made; what counts is the share of the dense network in the same minutes (milliseconds: at the "
                "quicker pace)"
            )
