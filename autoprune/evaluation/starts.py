"""Where a short training may begin: which units of a width stay, and whether the layers are fitted first.

Reconstructed layers help one kind of network and harm another, and no criterion picks the better units of every network
(results/benchmarks/quality.md): so each finalist is tried from every start for a few steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from autoprune.evaluation.plan import EvaluationPlan
from autoprune.problem import Problem, Trial
from objectives.products import Floats


class Start(NamedTuple):
    """A beginning of a training.

    Attributes:
        fitted: Whether the layers are fitted to the dense network's outputs, or as they were cut.
        units: The criterion that says which units stay; "" for the run's.
    """

    fitted: bool = False
    units: str = ""


def starts_of(plan: EvaluationPlan, others: Iterable[str]) -> tuple[Start, ...]:
    """Those of a fidelity that trains: as cut; of a finalist, with the layers fitted or other criteria's units, too."""
    more = [*([Start(fitted=True)] if plan.fit_samples else []), *(Start(units=name) for name in others)]
    return (Start(), *(more if plan.starts else []))


def other_scores(problem: Problem, criterion: str) -> dict[str, tuple[Floats, ...]]:
    """Whose units finalists may have besides the criterion's: the norms', where nobody asked for another criterion."""
    return {"magnitude": problem.norms} if problem.norms is not None and criterion == "group_fisher" else {}


def scores_of(problem: Problem, trial: Trial) -> tuple[Floats, ...]:
    """The scores whose units a trial has kept."""
    return (trial.metrics.get("units") and problem.norms) or problem.scores
