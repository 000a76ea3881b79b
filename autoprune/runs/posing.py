"""From settings and a traced network to its `Problem`: what is refused first, then budgets, scores and predictors."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from autoprune import criteria, strategies
from autoprune.compute import Compute
from autoprune.config import RunConfig
from autoprune.criteria.saved import SavedScores
from autoprune.criteria.scoring import Batches
from autoprune.criteria.scoring import make as make_criterion
from autoprune.errors import LedgerMismatch
from autoprune.problem import Problem
from autoprune.runs.scoring import scored
from autoprune.tasks import Task
from objectives import Budget, Feasibility, InfeasibleBudget, parse
from objectives.latency import Latency, backends, fast_divisors, predictors, reached_with_depth, with_divisors
from search_spaces import SearchSpace, verified


def check_names(config: RunConfig, scored: bool = False, known: Iterable[str] = ()) -> None:
    """Refuse names that mean nothing, and budgets that nobody can measure here, before anything costs.

    Args:
        config: The settings.
        scored: Whether the criterion's scores are known.
        known: Metrics of budgets whose latency predictors are known.

    Raises:
        ValueError: Naming what is unknown or missing.
    """
    backends((b for b in budgets_of(config) if b.metric not in set(known)), config.latency_command)
    criterion = make_criterion(config.criterion, seed=config.seed)
    if not scored and isinstance(criterion, SavedScores):
        criterion.read()
    strategies.needs(config.strategy, config.encoding)
    if config.front:
        strategies.check_front(config.strategy, config.encoding, bool(config.budget))


def budgets_of(config: RunConfig) -> tuple[Budget, ...]:
    """Those that must hold; a cost of the front has one, if only 100 %."""
    budgets = tuple(parse(text) for text in config.budget)
    bounded = {b.metric for b in budgets}
    return budgets + tuple(Budget(metric, 1.0, relative=True) for metric in config.front if metric not in bounded)


def make_problem(
    config: RunConfig,
    dense: nn.Module,
    space: SearchSpace,
    example: Any,
    batches: Callable[[], Batches | None],
    *,
    task: Task | None = None,
    scores: Sequence[NDArray[np.float64]] | None = None,
    latency: Mapping[str, Latency] | None = None,
    divisors: Sequence[int] | None = None,
    worst: float = math.inf,
    say: Callable[[str], None] | None = None,
    check: Callable[[Problem], None] | None = None,
) -> Problem:
    """Hold the network to the law, measure what budgets need, score its channels, try the strategy.

    Args:
        config: The settings, their names checked (see `check_names`).
        dense: The network, in eval mode.
        space: As it was traced.
        example: What it is called with.
        batches: Gives what criteria of gradients or activations need; None: there is nothing.
        task: That the batches are of; default: (inputs, class numbers).
        scores: The criterion's scores, where they are known.
        latency: Predictors of measured latencies by metric, where they are known; others are measured.
        divisors: Of the groups, where `auto` has chosen them before.
        worst: Of a front: the loss from which a candidate is worth nothing.
        say: Called with a line before something takes minutes.
        check: Refuses what cannot be done, before channels are scored: called with the problem, scored by norms so far.

    Raises:
        ValueError: If a budget cannot hold, the network breaks the law, or a name does not fit the others.
    """
    budgets = budgets_of(config)
    given = config.divisor if isinstance(config.divisor, int) else 1
    space = space.with_limits(divisor=given, min_keep=config.min_keep, freeze=config.freeze, depth=config.deep)
    if scores is not None and [len(s) for s in scores] != [g.size for g in space.groups]:
        raise LedgerMismatch(f"model '{config.model}': has other groups than that of the run; give the same one")
    score_per = _cost_of_scores(config.score_per, [*Feasibility(space, ()).costs, *(b.metric for b in budgets)])
    compute = Compute.choose(config.device)
    space = verified(compute.lent(dense), space, compute.lent_inputs(example))
    measured = predictors(budgets, dense, space, example, config.latency_command, latency, say)
    try:
        Feasibility(space, budgets, costs=measured)  # refuses what cannot hold, before scores cost anything
    except InfeasibleBudget as error:
        deeper = reached_with_depth(error.budgets, dense, space, example, config.latency_command)
        said = [f"; --depth on reaches {100 * share:.1f} % of {metric}, measured" for metric, share in deeper.items()]
        raise InfeasibleBudget(f"{error}{''.join(said)}") from error
    if config.divisor == "auto":
        space = with_divisors(space, divisors or fast_divisors(space, measured, budgets))
    norms = criteria.score_all("magnitude", dense, space, (), config.seed)
    unscored = Problem(space, budgets, (), None, measured, config.front)
    if check is not None:
        check(replace(unscored, scores=tuple(norms if scores is None else scores)))
    if scores is None:
        scores = scored(config, dense, unscored, batches, task, say)
    needs = strategies.needs(config.strategy, config.encoding)
    distances = criteria.distances(dense, space) if "distances" in needs else None
    headline = None if task is None else task.labels().headline
    fraction = headline.name if headline and headline.is_fraction else ""
    more = (config.front, worst, score_per, config.metric, fraction, norms)
    problem = Problem(space, budgets, tuple(scores), distances, measured, *more)
    strategy = strategies.make(config.strategy, problem, config.seed, config.encoding, num_trials=config.trials)
    strategies.open_with(config.warm_starts, strategy)
    if isinstance(strategy, strategies.Foreign):
        strategy.propose(strategy.begin)  # its first own answer; asking changes nothing
    return problem


def _cost_of_scores(name: str, costs: Iterable[str]) -> str:
    """The cost that scores are divided by, spelled as among the costs of the run."""
    known, (cost, at, where) = dict.fromkeys(costs), name.partition("@")
    with contextlib.suppress(ValueError):  # unknown
        name = parse(f"{cost}<=100%{at}{where}").metric if cost not in ("", "none") else name
    if name not in ("", "none", *known):
        raise ValueError(f"score_per '{name}': must be none or a cost of this run ({', '.join(known)}); a latency or a "
                         "cost of your own needs a budget on it, if only 100%")  # fmt: skip
    return name
