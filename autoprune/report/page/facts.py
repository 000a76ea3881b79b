"""`Facts`: what a page says about a run, as numbers and names. Gathered once; charts and pages only show it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.config import RunConfig
from autoprune.labels import Labels
from autoprune.ledger import writers
from autoprune.problem import Trial, TrialState
from autoprune.report.ending import Ending, ending
from autoprune.report.page.prices import Priced
from autoprune.schedule import is_cached
from objectives import Budget, parse
from objectives.latency import Latency
from search_spaces import SearchSpace, Widths

if TYPE_CHECKING:
    from autoprune.ledger.measurements import Measurement
    from autoprune.runs.directory import RunDirectory
    from autoprune.tradeoff import TradeOff


@dataclass(frozen=True, eq=False)
class Facts(Priced):
    """A run at one moment, whether it runs, was stopped or has finished.

    Attributes:
        path: Its directory.
        config: Its settings.
        space: What may be pruned.
        trials: What was really evaluated, or is being, in the order asked.
        fingerprint: What the ledger says the problem is.
        writer: Who runs it; empty: nobody.
        export: The parsed best/architecture.json; None before there is one.
        latency: Metric -> predictor of the budgets on a latency.
        measurements: What was measured of finalists on their devices, in that order.
        tradeoff: What counts in a run with several goals; None: the loss.
        winner: The trial to deliver, of those so far; None before the first complete one.
        versions_changed: With which other versions it was resumed, in words; "" if with none.
        ending: Why there are no more candidates and, if nobody runs it, what would let the search go on.
    """

    path: Path
    config: RunConfig
    space: SearchSpace
    trials: tuple[Trial, ...]
    fingerprint: Mapping[str, Any]
    writer: str = ""
    export: Mapping[str, Any] | None = None
    latency: Mapping[str, Latency] = field(default_factory=dict)
    measurements: tuple[Measurement, ...] = ()
    tradeoff: TradeOff | None = None
    winner: Trial | None = None
    versions_changed: str = ""
    ending: Ending = field(default_factory=Ending)

    @classmethod
    def of(cls, run: RunDirectory) -> Facts:
        """The facts of a run.

        Raises:
            ValueError: If its files cannot be read.
        """
        from autoprune.exporting import read_architecture
        from autoprune.ledger.measurements import Measurements
        from autoprune.ledger.versions import seen_by, told

        record = run.record()
        measured = Measurements.of(record.notes)
        alive = writers(run.path, record, run.config.ledger, run.study)
        return cls(
            path=run.path,
            config=run.config,
            space=run.space(),
            trials=tuple(t for t in record.trials if not is_cached(t)),
            fingerprint=record.fingerprint,
            writer=", ".join(alive),
            export=read_architecture(run.best) if (run.best / "architecture.json").is_file() else None,
            latency=run.latency(),
            measurements=(*measured.past, *measured.every),
            tradeoff=run.tradeoff(record),
            winner=run.leader(record),
            versions_changed=told(seen_by(record)),
            ending=ending(run, record, bool(alive)),
        )

    @property
    def name(self) -> str:
        """What the run is called."""
        return self.path.resolve().name

    @property
    def state(self) -> str:
        """One word: running, finished or stopped."""
        return "running" if self.writer else "finished" if self.export else "stopped"

    @property
    def is_training(self) -> bool:
        """Whether a method trained instead of a search: there is one candidate, what it found."""
        return bool(self.config.method)

    @property
    def model(self) -> str:
        """What was pruned."""
        return self.config.model or "an nn.Module object"

    @property
    def metric(self) -> str:
        """What the minimised number is called."""
        return self.labels.score(self.config.metric).minimised

    @cached_property
    def labels(self) -> Labels:
        """What its samples and scores are called."""
        return Labels.of(self.path)

    @property
    def metric_title(self) -> str:
        """The same at the beginning of a title."""
        return self.metric[:1].upper() + self.metric[1:]

    @cached_property
    def budgets(self) -> tuple[Budget, ...]:
        """What must hold."""
        return tuple(parse(text) for text in self.config.budget)

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
    def interrupted(self) -> int:
        """How many evaluations a kill has cut short; they are done anew."""
        return 0 if self.writer else sum(t.state is TrialState.RUNNING for t in self.trials)

    @property
    def seconds(self) -> float:
        """Of all evaluations together, whoever did them."""
        return sum(t.seconds for t in self.trials)

    def told(self, name: str) -> dict[str, Any]:
        """What stands under a name among the metrics of the export; empty if nothing does."""
        return dict(self.export["metrics"].get(name, {})) if self.export else {}

    def measured(self, which: str, split: str) -> dict[str, float]:
        """Loss and scores of the "dense" or the "pruned" network on "val" or "test"; empty if not known."""
        return self.told(f"{which}_{split}")

    def fitness(self, which: str) -> float:
        """What the search minimises, of the exported or the dense network, on all validation samples; else NaN."""
        score, found = self.labels.score(self.config.metric), self.measured(which, "val")
        known = score.name == "loss" or score in self.labels.scores
        return score.loss(found.get(score.name, math.nan)) if known else math.nan
