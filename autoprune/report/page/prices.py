"""What candidates cost, and how a cost is called and written in a sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from autoprune.report.tables import counted, number
from objectives import ArithmeticCost, Budget, cost, is_latency
from objectives.costs import PricesBatch
from objectives.guard import may_find
from objectives.latency import Latency, Target
from search_spaces import SearchSpace, Widths


def cost_label(metric: str) -> str:
    """What a cost is called in a sentence; of a latency's settings those that are not the default."""
    if not is_latency(metric):
        return {"macs": "MACs", "params": "parameters"}.get(metric, metric.rpartition(":")[2])
    target = Target.parse(metric)
    usual = Target(target.backend)
    said = [f"latency on {target.backend.rpartition(':')[2]}"]
    said += [f"batch {target.batch}"] * (target.batch != usual.batch)
    said += [counted(target.threads, "thread")] * (target.threads != usual.threads)
    said += [target.device] * (target.device != usual.device and target.backend != "tensorrt")
    return ", ".join(said)


def amount(metric: str, value: float) -> str:
    """A cost in words: "1.077 M", "0.2 ms", "1234 ms"."""
    return f"{milliseconds(value)} ms" if is_latency(metric) else number(value)


def milliseconds(value: float) -> str:
    """Three significant digits, which is more than a measurement is worth."""
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def slug(name: str) -> str:
    """A name that can be that of a file and of a place in a page: "latency-torch-batch-1-threads-1"."""
    return re.sub(r"\W+", "-", name).strip("-")


class Priced:
    """Something with a space and predictors, so that its candidates have costs.

    Attributes:
        space: What may be pruned.
        latency: Metric -> predictor of the budgets on a latency.
    """

    space: SearchSpace
    latency: Mapping[str, Latency]

    @cached_property
    def costs(self) -> dict[str, ArithmeticCost | Latency]:
        """Every cost that can say where in the network it arises (`parts`): MACs, latencies, the others."""
        from objectives import COSTS  # the facade's import lines are the registry

        made = {name: kind(self.space) for name, kind in COSTS.items() if issubclass(kind, ArithmeticCost)}
        return {"macs": made.pop("macs"), **self.latency, "params": made.pop("params"), **made}

    def can_price(self, metric: str) -> bool:
        """Whether a cost is known: a latency needs its predictor, which another run may have, or had once.

        One of the user's own needs its code, which may not be called in a stranger's run.
        """
        return metric in self.latency or (not is_latency(metric) and may_find("cost", metric))

    def price(self, metric: str, widths: Widths) -> float:
        """A cost of one candidate, in its own unit."""
        return float(self._prices(metric, [widths])[0])

    def priced(self, metric: str, widths: Sequence[Widths]) -> NDArray[np.float64]:
        """A cost of many candidates, as fractions of the dense network [B]."""
        return self._prices(metric, widths) / (self.price(metric, self.space.full) or 1.0)

    def bound(self, budget: Budget) -> float:
        """A budget in the unit of its cost."""
        return budget.bound(self.price(budget.metric, self.space.full))

    def limit(self, budget: Budget) -> float:
        """A budget as a fraction of the dense network."""
        return self.bound(budget) / (self.price(budget.metric, self.space.full) or 1.0)

    def _prices(self, metric: str, widths: Sequence[Widths]) -> NDArray[np.float64]:
        price: PricesBatch = self.costs.get(metric) or cost(metric, self.space)
        table = np.array(widths, dtype=np.float64).reshape(len(widths), len(self.space.groups))
        return np.asarray(price(table), dtype=np.float64)
