"""`Facts`: what a page says about a run, as numbers and names. Gathered once; charts and pages only show it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autoprune.config import RunConfig
from autoprune.ledger import writers
from autoprune.problem import Trial, TrialState
from autoprune.report.progress import metric_label
from autoprune.schedule import best, is_cached
from objectives import ArithmeticCost, Budget, cost, parse
from search_spaces import SearchSpace, Widths

if TYPE_CHECKING:
    from autoprune.runs.directory import RunDirectory


def cost_label(metric: str) -> str:
    """What a cost is called in a sentence."""
    return {"macs": "MACs", "params": "parameters"}.get(metric, metric.rpartition(":")[2])


@dataclass(frozen=True, eq=False)
class Facts:
    """A run at one moment, whether it runs, was stopped or has finished.

    Attributes:
        path: Its directory.
        config: Its settings.
        space: What may be pruned.
        trials: What was really evaluated, or is being, in the order asked.
        fingerprint: What the ledger says the problem is.
        writer: Who runs it; empty: nobody.
        export: The parsed best/architecture.json; None before there is one.
    """

    path: Path
    config: RunConfig
    space: SearchSpace
    trials: tuple[Trial, ...]
    fingerprint: Mapping[str, Any]
    writer: str = ""
    export: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, run: RunDirectory) -> Facts:
        """The facts of a run.

        Raises:
            ValueError: If its files cannot be read.
        """
        from autoprune.export import read_architecture

        record = run.record()
        export = read_architecture(run.best) if (run.best / "architecture.json").is_file() else None
        trials = tuple(t for t in record.trials if not is_cached(t))
        crew = ", ".join(writers(run.path, record, run.config.ledger, run.study))
        return cls(run.path, run.config, run.space(), trials, record.fingerprint, crew, export)

    @property
    def name(self) -> str:
        """What the run is called."""
        return self.path.resolve().name

    @property
    def state(self) -> str:
        """One word: running, finished or stopped."""
        return "running" if self.writer else "finished" if self.export else "stopped"

    @property
    def model(self) -> str:
        """What was pruned."""
        return self.config.model or "an nn.Module object"

    @property
    def metric(self) -> str:
        """What the minimised number is called."""
        return metric_label(self.config.metric)

    @cached_property
    def budgets(self) -> tuple[Budget, ...]:
        """What must hold."""
        return tuple(parse(text) for text in self.config.budget)

    @cached_property
    def winner(self) -> Trial | None:
        """The best candidate so far."""
        return best(self.trials, self.config.schedule.fidelities)

    @property
    def widths(self) -> Widths | None:
        """Of the exported network; before there is one, of the best candidate so far."""
        if self.export:
            return tuple(self.export["widths"])
        return self.winner.widths if self.winner else None

    @property
    def failed(self) -> list[Trial]:
        """What failed."""
        return [t for t in self.trials if t.state is TrialState.FAIL]

    @property
    def seconds(self) -> float:
        """Of all evaluations together, whoever did them."""
        return sum(t.seconds for t in self.trials)

    @cached_property
    def costs(self) -> dict[str, ArithmeticCost]:
        """Every cost that can say where in the network it arises (`parts`)."""
        from objectives import COSTS  # the facade's import lines are the registry

        names = sorted(COSTS, key=("macs", "params").__contains__, reverse=True)
        return {n: kind(self.space) for n in names if issubclass(kind := COSTS[n], ArithmeticCost)}

    def price(self, metric: str, widths: Widths) -> float:
        """A cost of one candidate."""
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

    def measured(self, which: str, split: str) -> dict[str, float]:
        """Loss and top-1 of the "dense" or the "pruned" network on "val" or "test"; empty if not known."""
        return dict(self.export["metrics"].get(f"{which}_{split}", {})) if self.export else {}

    def fitness(self, which: str) -> float:
        """What the search minimises, of the exported or the dense network, on all validation images; else NaN."""
        found = self.measured(which, "val")
        if self.config.metric == "top1":
            return 1 - found.get("top1", math.nan)
        return found.get("loss", math.nan) if self.config.metric == "loss" else math.nan

    def _prices(self, metric: str, widths: Sequence[Widths]) -> NDArray[np.float64]:
        price = self.costs.get(metric) or cost(metric, self.space)
        table = np.array(widths, dtype=np.float64).reshape(len(widths), len(self.space.groups))
        return np.asarray(price(table), dtype=np.float64)
