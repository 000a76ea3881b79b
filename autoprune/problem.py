"""The nouns of a search: `Problem` (what a strategy may know before anything runs) and `Trial` (a fact)."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoprune.fidelity import PROXY, Fidelity
from autoprune.printable import printable
from objectives import Budget, Feasibility
from objectives.latency import Latency
from search_spaces import SearchSpace, Widths


class TrialState(str, enum.Enum):
    """Where a trial stands. All but RUNNING are final."""

    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"  # abandoned early: its loss is an estimate from the batches seen
    FAIL = "fail"


@dataclass(frozen=True)
class Proposal:
    """What a strategy answers when it is asked for a trial.

    Attributes:
        widths: Kept units per group.
        genes: The point of an encoding that the widths were decoded from, for who learns in that encoding.
        probe: Only measured: it may break the budgets, is never abandoned early, and never wins.
    """

    widths: Widths
    genes: tuple[float, ...] = ()
    probe: bool = False


@dataclass(frozen=True)
class Trial:
    """One candidate and what became of it: a fact, never changed.

    Attributes:
        number: 0, 1, 2, ... in the order asked.
        widths: Kept units per group.
        state: Where it stands.
        metrics: "loss" (mean over validation samples), scores of the task, costs, whatever the evaluator measured.
        fidelity: How it was evaluated; stored as its word.
        worker: Who evaluated it.
        seconds: Wall time of the evaluation.
        error: Why it failed.
        genes: See `Proposal`.
        probe: See `Proposal`.
    """

    number: int
    widths: Widths
    state: TrialState = TrialState.RUNNING
    metrics: Mapping[str, Any] = field(default_factory=dict)
    fidelity: Fidelity = PROXY
    worker: str = ""
    seconds: float = 0.0
    error: str = ""
    genes: tuple[float, ...] = ()
    probe: bool = False

    def __post_init__(self) -> None:
        """Make harmless what others have written: the terminal, the page and the table show it as it is."""
        for name in ("error", "worker"):
            object.__setattr__(self, name, printable(getattr(self, name)))
        object.__setattr__(self, "fidelity", Fidelity(printable(self.fidelity)))

    @property
    def loss(self) -> float:
        """The fitness (lower is better); infinite unless the trial is complete or pruned with an estimate."""
        loss = float(self.metrics.get("loss", math.inf))
        return loss if math.isfinite(loss) and self.state in (TrialState.COMPLETE, TrialState.PRUNED) else math.inf


@dataclass(frozen=True, eq=False)
class Problem:
    """All that a strategy may know before anything runs.

    Attributes:
        space: What may be pruned.
        budgets: What must hold; every candidate is projected on all of them.
        scores: Importance of each unit, per group [C], higher = keep, of the run's criterion.
        distances: Squared Euclidean distances between the units' filters, per group [C, C]; only where a strategy or
            an encoding needs them.
        latency: Metric -> predictor of the budgets on a measured latency.
        front: The costs that the loss is traded off against, each with a budget, if only 100 %; empty: one goal.
        worst: Of a front: the loss from which a candidate is worth nothing.
        score_per: The cost by which `allocation.knapsack` divides scores: a key of `feasibility.costs`, "none", or ""
            for the costs that the budgets limit.
        metric: What the loss of a trial is: "loss" (of the task), a score of the task, or the user's own.
        fraction: The task's first score, if it is a fraction of 1 of which more is better: "top1", "miou"; else "".
        found: Widths of the units that a method of training has found; None: none has.
        norms: Scores by `criteria.Magnitude`, per group [C]: what the rules of others rank by; None: `scores`.
    """

    space: SearchSpace
    budgets: tuple[Budget, ...]
    scores: tuple[NDArray[np.float64], ...]
    distances: tuple[NDArray[np.float64], ...] | None = None
    latency: Mapping[str, Latency] = field(default_factory=dict)
    front: tuple[str, ...] = ()
    worst: float = math.inf
    score_per: str = ""
    metric: str = "loss"
    fraction: str = ""
    norms: tuple[NDArray[np.float64], ...] | None = None
    found: Widths | None = None

    @cached_property
    def feasibility(self) -> Feasibility:
        """Prices and projects candidates."""
        return Feasibility(self.space, self.budgets, self.scores, self.latency)

    def tighter(self, limits: Mapping[str, float]) -> Problem:
        """The same with more budgets: metric -> limit in the unit of the cost."""
        more = tuple(Budget(metric, limit) for metric, limit in limits.items())
        return replace(self, budgets=(*self.budgets, *more))

    def on_the_way(self, share: float) -> Problem:
        """The same with budgets a share of the way from the full costs (0) to its own (1), on a logarithmic scale."""
        full, limits = self.feasibility.price(self.space.full), self.feasibility.limits
        shares = {name: min(1.0, limit / full[name]) for name, limit in limits.items() if full[name] > 0}
        return replace(self, budgets=tuple(Budget(name, full[name] * part**share) for name, part in shares.items()))

    def project(self, widths: Widths) -> Widths:
        """Feasible legal widths near `widths` that use the budgets up."""
        return self.feasibility.project(widths)

    def repair(self, widths: Widths) -> Widths:
        """`widths` as they are if they are legal and keep every budget; otherwise projected."""
        try:
            legal = self.space.check(widths)
        except ValueError:
            return self.project(widths)
        return self.project(legal) if self.feasibility.violation(legal) else legal
