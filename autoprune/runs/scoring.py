"""The scores of a run's criterion: on the dense network, then in rounds of pruning and training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from autoprune import criteria
from autoprune.allocation import iterative_scores
from autoprune.compute import Compute
from autoprune.config import RunConfig
from autoprune.criteria.scoring import Batches, Scores, make
from autoprune.errors import Diverged
from autoprune.fidelity import Fidelity
from autoprune.problem import Problem
from autoprune.recovery import reestimate_evenly
from autoprune.report.pace import Samples
from autoprune.report.tables import counted
from autoprune.settings import TrainingSettings
from autoprune.tasks import Task
from autoprune.training import finetune
from objectives.plugins import PluginError

SMALLEST = 0.1  # where a front is searched, how far from the smallest network the rounds go


def scored(
    config: RunConfig,
    dense: nn.Module,
    problem: Problem,
    batches: Callable[[], Batches | None],
    task: Task | None,
    say: Callable[[str], None] | None,
) -> Scores:
    """The scores of every unit.

    Args:
        config: Criterion, rounds and steps.
        dense: The dense network, in eval mode.
        problem: Space and budgets; without scores.
        batches: Gives what criteria of gradients or activations need, anew in each round.
        task: That the batches are of; None: nothing can be trained, so there is one round, as for a frozen network.
        say: Called with a line before something takes minutes.
    """
    space, device = problem.space, Compute.choose(config.device).device

    def score(net: nn.Module) -> Scores:
        return criteria.score_all(config.criterion, net, space, batches(), config.seed, task, device)

    def again(net: nn.Module) -> Scores:
        try:
            return score(net)
        except PluginError:
            raise
        except ValueError as error:  # on samples that the dense network has answered: it is the weights
            raise Diverged(str(error)) from error

    found = score(dense)
    rounds = rounds_of(config) if space.groups and any(p.requires_grad for p in dense.parameters()) else 1
    if task is not None and rounds > 1:
        say = say or (lambda line: None)
        say(f"scoring in {rounds} rounds, {counted(steps_of(config), 'training step')} between them")
        try:
            found = iterative_scores(
                _towards(replace(problem, scores=found)),
                dense,
                rounds,
                again,
                lambda net: _adapt(net, task, config),
            )
        except Diverged as error:
            say(f"scores are of the dense network, as training between rounds diverged ({error}); a lower --lr helps")
    if space.vanishing is not None:
        found = criteria.with_branch_losses(found, dense, space, batches(), task, device)
    return found


def rounds_of(config: RunConfig) -> int:
    """Rounds of scoring: one where nothing else is trained, or where a method finds the units."""
    looks_at_data = bool(make(config.criterion, seed=config.seed).needs)
    return config.score_rounds if trains(config) and looks_at_data and not config.method else 1


def scoring_passes(config: RunConfig, samples: Samples) -> int:
    """Samples that pass to score the units, forwards; with a backward pass they count three times, as in training."""
    rounds, seen = rounds_of(config), min(config.score_samples, samples.train)
    once = (3 * seen) if make(config.criterion, seed=config.seed).needs else 0
    return rounds * once + 3 * (rounds - 1) * steps_of(config) * samples.batch_of(config)


def trains(config: RunConfig) -> bool:
    """Whether a search with these settings trains anything."""
    return config.epochs > 0 or config.finalists > 0 or Fidelity(config.fidelity).trains


def steps_of(config: RunConfig) -> int:
    """Training steps between two rounds."""
    given = config.score_steps
    return round(given * config.short_steps if given < 1 else given)


def _towards(problem: Problem) -> Problem:
    """The problem whose budgets the rounds end at: of a front, near the smallest network."""
    if not problem.front:
        return problem
    limits, smallest = problem.feasibility.limits, problem.feasibility.price(problem.space.floor)
    return problem.tighter({m: smallest[m] + SMALLEST * (limits[m] - smallest[m]) for m in problem.front})


def _adapt(net: nn.Module, task: Task, config: RunConfig) -> None:
    """Train what a round has left, as a long training begins; or renew the statistics of its batch-norms."""
    if steps := steps_of(config):
        settings = replace(TrainingSettings.of(config), lr_schedule="constant", warmup=0, ema=0.0)
        finetune(net, task, settings, steps=steps)
        return
    compute = Compute.choose(config.device, config.amp)
    placed = task.on(compute)
    net.to(compute.device)
    reestimate_evenly(
        net, placed, placed.draw("calibration", config.bn_samples, config.seed), config.batch_size, compute
    )
