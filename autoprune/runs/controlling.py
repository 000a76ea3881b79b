"""The controller of a run, here or in the coordinator on a cluster."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from autoprune.allocation import peer_rules
from autoprune.config import RunConfig
from autoprune.controller import Job, SearchCallback, SearchController
from autoprune.finalists import Different
from autoprune.ledger import Ledger, new_name
from autoprune.ledger.versions import note_versions
from autoprune.problem import Problem, TrialState
from autoprune.runs.correcting import binding, planned
from autoprune.runs.directory import RunDirectory
from autoprune.runs.joining import shared
from autoprune.runs.prepare import Prepared
from autoprune.runs.recipe import Recipe
from autoprune.schedule import Halving
from autoprune.strategies import Strategy, make, open_with
from autoprune.strategies.found import Found
from autoprune.tradeoff import TradeOff
from autoprune.training import checkpoint
from autoprune.training.averaging import averaged
from autoprune.workers.cluster import Finals, Search, Share, connect, payload, run_cluster

PATIENCE_S = 600.0  # no worker is taken for hung sooner,
PATIENCE = 20  # nor before so many times as long as the slowest candidate of the same fidelity took


def make_controller(
    ledger: Ledger, config: RunConfig, problem: Problem, schedule: Halving | None = None
) -> SearchController:
    """The controller of a run, on its open ledger; with another schedule than `planned` if one is given."""
    if problem.found:
        strategy: Strategy = Found(problem, seed=config.seed, num_trials=config.trials)
    else:
        strategy = make(config.strategy, problem, config.seed, config.encoding, num_trials=config.trials)
    schedule = schedule or planned(config.schedule, problem, ledger.notes)
    return SearchController(
        ledger,
        open_with(config.warm_starts, strategy),
        replace(schedule, choose=Different(peer_rules(problem))),
        project=problem.repair,
        limits=config.limits,
        tradeoff=TradeOff.of(problem, bool(config.budget)),
        measured=bool(binding(problem.budgets)),
    )


def patience(ledger: Ledger, timeout_s: float) -> Callable[[Job], float]:
    """After how many seconds a worker is taken for hung; without a timeout, never before the first result is there."""

    def limit_s(job: Job) -> float:
        done = (TrialState.COMPLETE, TrialState.PRUNED)
        slowest = max((t.seconds for t in ledger.trials if t.fidelity == job.fidelity and t.state in done), default=0.0)
        return timeout_s or (max(PATIENCE_S, PATIENCE * slowest) if slowest else math.inf)

    return limit_s


@dataclass(frozen=True)
class OpenSearch:
    """Opens a run for the coordinator on a cluster, again and again if it dies; picklable.

    Attributes:
        run: With an absolute path.
        problem: Of the run.
        fingerprint: Likewise.
        extent: Settings that the run remembers once its ledger is open.
        finals: Whether finalists are ordered too, or only the strategy's candidates.
        me: Name of the controller, where there may be several: a coordinator that is made again is still the same.
    """

    run: RunDirectory
    problem: Problem
    fingerprint: Mapping[str, Any]
    extent: Mapping[str, Any]
    finals: bool = False
    me: str = field(default_factory=new_name)

    def __call__(self) -> Search:
        """Open the ledger and make the controller.

        Raises:
            ValueError: If the run's directory is not on this machine.
        """
        run, config = self.run, self.run.config
        if not (run.path / "config.toml").is_file():
            raise ValueError(
                f"run '{run.path}': is not to be seen on the machine of the cluster that keeps the ledger; put it on a "
                "shared file system (--name /shared/...), or start the search on that machine with --cluster auto"
            )
        groups = {g.name: g.size for g in self.problem.space.groups}
        where: dict[str, Any] = {"url": config.ledger, "study": run.study, "me": self.me}
        ledger = Ledger.open(run.path, groups, self.fingerprint, **where, arrays=shared(self.problem))
        run.remember(**self.extent)
        note_versions(ledger)
        schedule = planned(config.schedule, self.problem, ledger.notes)
        schedule = schedule if self.finals else replace(schedule, rungs=())
        controller = make_controller(ledger, config, self.problem, schedule)
        return Search(ledger, controller, patience(ledger, config.timeout))


class CandidateTrainer:
    """Fine-tunes finalists of a run, with their state in a folder.

    Args:
        recipe: Of the run.
        device: Where.
        folder: Holds the state of one candidate at a time.
        every: Steps between two states.
    """

    def __init__(self, recipe: Recipe, device: str, folder: str, every: int) -> None:
        model, task = recipe.build()
        self._folder = Path(folder)
        self._evaluator = recipe.evaluator(model, task, device, checkpoints=folder, checkpoint_every=every)

    def __call__(self, job: Job, listener: Callable[[int, int, float], None]) -> Mapping[str, Any]:
        """The metrics after the whole training: the same as any worker's."""
        return self._evaluator(job.widths, job.fidelity, job.incumbent, listener)

    def glance(self, job: Job) -> Mapping[str, Any]:
        """The metrics at the step whose state is in the folder."""
        file = max(self._folder.glob("*.pt"), key=lambda path: path.stat().st_mtime)
        return self._evaluator.glance(job.widths, averaged(checkpoint.read(file, self._evaluator.compute.device)))


@contextlib.contextmanager
def reserved(config: RunConfig) -> Iterator[Share | None]:
    """The cluster that the settings ask for, for the time of the block; None: no cluster.

    Raises:
        ValueError: If it cannot be reached or is too small.
    """
    if not config.cluster:
        yield None
        return
    if config.devices or config.join:
        raise ValueError("cluster: Ray chooses the devices and there is one controller; leave out devices and join")
    with connect(config.cluster) as cluster:
        if config.train_workers:
            cluster.share(config.train_workers, config.per_device, config.device, "--train-workers")
        yield cluster.share(config.workers, config.per_device, config.device)


def check_callbacks(config: RunConfig, callbacks: Sequence[Any]) -> None:
    """Check that callbacks are Ray Tune's, and that it runs the search.

    Raises:
        ValueError: If they are not, or it does not.
    """
    if not isinstance(callbacks, Sequence):
        raise ValueError(f"callbacks: expected a list of ray.tune.Callback objects, got {callbacks!r:.40}")
    if callbacks and not config.cluster:
        raise ValueError("callbacks: Ray Tune calls them; let it run the search with cluster='auto', or leave them out")
    if callbacks:
        from autoprune.workers.cluster.reach import refuse_other_callbacks

        refuse_other_callbacks(callbacks)


def check_sendable(recipe: Recipe, prepared: Prepared) -> None:
    """Check that a cluster's workers can be sent what they need, while nothing has been written yet.

    Raises:
        ValueError: Naming the part of the model or the data that cannot be sent to another process.
    """
    payload.check_sendable(_sent(recipe, prepared))


def _sent(recipe: Recipe, prepared: Prepared) -> Recipe:
    """The recipe with the very network and task of this process: no other machine looks for them."""
    return replace(recipe, model=prepared.model, task=prepared.task.without("test"))


def search_on_cluster(
    run: RunDirectory,
    prepared: Prepared,
    recipe: Recipe,
    share: Share,
    listener: SearchCallback,
    callbacks: Sequence[Any] = (),
    extent: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Evaluate all candidates of a run on the cluster; its ledger must be closed here meanwhile.

    Raises:
        SearchStopped: As `run_cluster`.
    """
    fingerprint = prepared.fingerprint()
    at = replace(run, path=run.path.resolve())
    open_search = OpenSearch(at, prepared.problem, fingerprint, extent or {})
    config = run.config
    recipe = replace(_sent(recipe, prepared), weights=fingerprint["weights"])
    open_finals, trainer = replace(open_search, finals=True), partial(CandidateTrainer, recipe)
    score = prepared.task.labels().headline
    finals = Finals(open_finals, trainer, config.short_steps, config.rungs, score) if config.finalists else None
    told: dict[str, Any] = {"listener": listener, "callbacks": callbacks, "table": True, "say": say}
    run_cluster(open_search, recipe, share, at.path / "ray", finals=finals, **told)
