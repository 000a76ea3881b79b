"""One run, many budgets: the winner's learnt ranking cut elsewhere, or another candidate of the front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from autoprune import strategies
from autoprune.config import RunConfig
from autoprune.printable import decimals
from autoprune.problem import Problem, Trial
from autoprune.schedule import best, ranked
from autoprune.strategies import Encoded
from autoprune.strategies.encoded import make_encoding
from objectives import Budget, Feasibility, InfeasibleBudget
from search_spaces import Widths
from search_spaces.encodings import Encoding, Floats, LayerCompensation, Preferences

Learnt = LayerCompensation | Preferences  # smaller budgets give smaller widths in every group

NEAR = 0.9  # of the way from the smallest network to the best untrained one: so large a trained one is preferred to it


def rebudget(problem: Problem, budgets: tuple[Budget, ...], ranking: Learnt, x: Floats, of: Widths) -> Widths:
    """The widths at other budgets, on the chain of nested networks that a ranking puts around those of a trial.

    The threshold of the ranking (of preferences: their common factor) is moved to the lowest that fits. Below the
    trial's own budget no group gets wider than it was, above it none narrower, and what rounding leaves of the budget
    stays: so any two answers are nested, the smaller one's units all in the larger one.

    Args:
        problem: With the budgets of the search.
        budgets: The other ones.
        ranking: In which the point stands for the trial; or preferences.
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


def learnt_ranking(problem: Problem, config: RunConfig, trial: Trial, trials: Sequence[Trial]) -> tuple[Learnt, Floats]:
    """The ranking, or the preferences, that a run learnt: its encoding, and the point [D] of a trial in it.

    A run over the ratios, or over no encoding, learnt neither: then it is the shift of each group that gives the
    trial's widths.

    Args:
        problem: Of the run.
        config: Of the run.
        trial: The winner, or another one.
        trials: All of the run: a finalist has the genes of the candidate it was.
    """
    encoding = _encoding(problem, config)
    if not isinstance(encoding, Learnt):
        encoding = LayerCompensation(problem.space, problem.scores)
        return encoding, encoding.encode(trial.widths)
    genes = next((t.genes for t in [trial, *trials] if t.widths == trial.widths and t.genes), ())
    return encoding, np.array(genes) if len(genes) == encoding.dim else encoding.encode(trial.widths)


def searches_front(config: RunConfig) -> bool:
    """Whether the candidates of a run have budgets of their own: then another budget is another candidate."""
    return bool(config.front) and not strategies.kind(config.strategy).fills


def evaluated(
    problem: Problem, trials: Sequence[Trial], budgets: tuple[Budget, ...], fidelities: Sequence[str]
) -> Trial:
    """The best candidate that was evaluated within other budgets.

    A trained one is taken if one is nearly as large as the best untrained one (see `NEAR`): then the best of all that
    were trained so long, which may be smaller. Losses of two fidelities do not compare.

    Args:
        problem: Of the run.
        trials: All of the run.
        budgets: The other ones.
        fidelities: From the highest to the lowest.

    Raises:
        InfeasibleBudget: If there is none.
    """
    bounds = Feasibility(problem.space, budgets, costs=problem.feasibility.costs)
    holding = [t for t in ranked(trials) if not bounds.violation(t.widths)]
    if not holding:
        raise InfeasibleBudget(_too_large(problem, trials, bounds))
    first = next((t for t in holding if t.fidelity == fidelities[-1]), holding[0])
    smallest, there = bounds.price(problem.space.floor), bounds.price(first.widths)
    enough = {m: smallest[m] + NEAR * (there[m] - smallest[m]) for m in bounds.limits}
    near = [t for t in holding if all(bounds.price(t.widths)[m] >= least for m, least in enough.items())]
    judged = best(near, fidelities) or first
    return min((t for t in holding if t.fidelity == judged.fidelity), key=lambda t: t.loss)


def why_this(problem: Problem, trials: Sequence[Trial], budgets: tuple[Budget, ...], taken: Trial, metric: str) -> str:
    """What was taken of a front and why not a larger one within the budgets: its loss against the best of those.

    Losses are compared at the fidelity of the taken one or, where no larger one has been trained so far, at theirs.

    Args:
        problem: Of the run.
        trials: All of the run.
        budgets: The other ones.
        taken: What `evaluated` took.
        metric: What the loss is called.
    """
    bounds = Feasibility(problem.space, budgets, costs=problem.feasibility.costs)
    name = next(iter(bounds.limits))
    dense, cost = bounds.price(problem.space.full)[name], bounds.price(taken.widths)[name]

    def shown(trial: Trial) -> str:
        share = 100 * bounds.price(trial.widths)[name] / dense
        return f"trial {trial.number} with {metric} {decimals(trial.loss)} ({trial.fidelity}) at {name} {share:.1f} %"

    head = f"of the front within {' and '.join(map(str, budgets))}: {shown(taken)}"
    holding = [t for t in ranked(trials) if not bounds.violation(t.widths)]
    larger = [t for t in holding if bounds.price(t.widths)[name] > cost]
    if not larger:
        return f"{head}, the largest there"
    count = len({t.widths for t in larger})
    if rivals := [t for t in larger if t.fidelity == taken.fidelity]:
        return f"{head}; of {count} larger ones the best is {shown(rivals[0])}"
    rival = larger[0]
    same = next((t for t in holding if t.widths == taken.widths and t.fidelity == rival.fidelity), None)
    own = f", where this one has {decimals(same.loss)}" if same else ""
    return f"{head}; of {count} larger ones none was trained so long, the best is {shown(rival)}{own}"


def _too_large(problem: Problem, trials: Sequence[Trial], bounds: Feasibility) -> str:
    """Why no candidate holds the budgets, and how far the smallest one goes."""
    text = " and ".join(f"budget '{b}'" for b in bounds.budgets)
    smallest = min(ranked(trials), key=lambda t: bounds.violation(t.widths), default=None)
    if smallest is None:
        return f"{text}: no candidate has been evaluated yet"
    dense, price = bounds.price(problem.space.full), bounds.price(smallest.widths)
    least = ", ".join(f"{m} {math.ceil(1000 * price[m] / dense[m] - 1e-9) / 10:g} %" for m in bounds.limits)
    return (
        f"{text}: no candidate of the front keeps to that; the smallest one that was evaluated, trial "
        f"{smallest.number}, has {least} of the dense network; ask for that, or resume the run with more --trials"
    )


def _encoding(problem: Problem, config: RunConfig) -> Encoding | None:
    """In which the run's strategy searched; None if in none."""
    kind = strategies.kind(config.strategy)
    return make_encoding(config.encoding or kind.default, problem) if issubclass(kind, Encoded) else None
