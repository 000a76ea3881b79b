"""One learnt ranking, many budgets: the winner's ranking cut elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from autoprune import strategies
from autoprune.config import RunConfig
from autoprune.problem import Problem, Trial
from autoprune.strategies import Encoded
from autoprune.strategies.encoded import make_encoding
from objectives import Budget
from search_spaces import Widths
from search_spaces.encodings import Encoding, Floats, LayerCompensation


def rebudget(
    problem: Problem, budgets: tuple[Budget, ...], ranking: LayerCompensation, x: Floats, of: Widths
) -> Widths:
    """The widths at other budgets, on the chain of nested networks that a ranking puts around those of a trial.

    The threshold of the ranking is moved to the lowest that fits. Below the trial's own budget no group gets wider than
    it was, above it none narrower, and what rounding leaves of the budget stays: so any two answers are nested, the
    smaller one's units all in the larger one.

    Args:
        problem: With the budgets of the search.
        budgets: The other ones.
        ranking: In which the point stands for the trial.
        x: The point [D].
        of: The widths of the trial.

    Raises:
        InfeasibleBudget: If the smallest network exceeds a budget.
    """
    feasibility = replace(problem, budgets=budgets).feasibility
    bound = np.minimum if feasibility.violation(of) else np.maximum
    cut = ranking.decode(x, lambda widths: feasibility.fits(bound(widths, of)))
    widths = problem.space.check(bound(cut, of).tolist())
    smaller, larger = (problem.space.kept(w, problem.scores) for w in sorted((widths, of)))  # nowhere wider: first
    assert all(np.isin(a, b).all() for a, b in zip(smaller, larger, strict=True)), "not nested"
    return widths


def learnt_ranking(
    problem: Problem, config: RunConfig, trial: Trial, trials: Sequence[Trial]
) -> tuple[LayerCompensation, Floats]:
    """The ranking that a run learnt: its encoding, and the point [D] of a trial in it.

    A run over another encoding learnt no ranking: then it is the shift of each group that gives the trial's widths.

    Args:
        problem: Of the run.
        config: Of the run.
        trial: The winner, or another one.
        trials: All of the run: a finalist has the genes of the candidate it was.
    """
    encoding = _encoding(problem, config)
    if not isinstance(encoding, LayerCompensation):
        encoding = LayerCompensation(problem.space, problem.scores)
        return encoding, encoding.encode(trial.widths)
    genes = next((t.genes for t in [trial, *trials] if t.widths == trial.widths and t.genes), ())
    return encoding, np.array(genes) if len(genes) == encoding.dim else encoding.encode(trial.widths)


def _encoding(problem: Problem, config: RunConfig) -> Encoding | None:
    """In which the run's strategy searched; None if in none."""
    kind = strategies.kind(config.strategy)
    return make_encoding(config.encoding or kind.default, problem) if issubclass(kind, Encoded) else None
