"""`search` and `resume`: the verbs that search. Wiring and nothing else.

A run goes: prepare (check and score) -> candidates by proxy -> finalists after a short fine-tune -> the winner's long
fine-tune -> export. Each part leaves its state in the run's directory, so `resume` goes on wherever it was stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from autoprune.config import RunConfig
from autoprune.controller import Job, SearchController
from autoprune.data import ImageData
from autoprune.errors import LedgerUnwritable, SearchStopped
from autoprune.export import copy_export, load, read_architecture
from autoprune.ledger import Ledger, refuse_password
from autoprune.problem import Trial, TrialState
from autoprune.recovery import Diverged
from autoprune.report import RunProgress, metric_label, write_csv
from autoprune.runs import (
    Prepared,
    Recipe,
    RunDirectory,
    SearchResult,
    Winner,
    changed_run,
    deliver,
    example_tensors,
    prepare,
    refuse_existing,
    reopen,
    run_path,
)
from autoprune.strategies import make, open_with
from autoprune.workers import pickled, run_here, run_processes

PATIENCE_S = 600.0  # no worker is taken for hung sooner,
PATIENCE = 20  # nor before so many times as long as the slowest candidate of the same fidelity took


def search(
    model: nn.Module | str,
    data: ImageData | str,
    budget: str | list[str] | tuple[str, ...] = "macs<=50%",
    *,
    example_inputs: Any = None,
    progress: RunProgress | None = None,
    **settings: Any,
) -> SearchResult:
    """Search the widths of a trained network under budgets, fine-tune the winner and export it.

    Args:
        model: The dense network, or "package.module:factory" (with `weights="file"`). A run of an nn.Module object can
            be resumed by `resume(run_dir, model=...)` only, since nothing on disk says how to build it.
        data: "digits", "cifar10:DIR", "imagefolder:DIR", "package.module:function", or an `ImageData`.
        budget: One or several that must all hold: "macs<=50%", "params<=1.5M" ...
        example_inputs: What the network is called with; default one training image.
        progress: Where to show progress; default nowhere.
        **settings: Any other field of `RunConfig`: strategy, criterion, trials, finalists, epochs, workers, seed, name,
            device, min_keep, divisor, freeze ...

    Raises:
        ValueError: If something is wrong with what was given; nothing has been written then.
        SearchStopped: If every candidate fails; the run can be resumed.

    Example:
        result = autoprune.search(model, "cifar10:data", budget="macs<=50%")
    """
    references = {k: v for k, v in (("model", model), ("data", data)) if isinstance(v, str)}
    config = RunConfig.make(**references, budget=budget, **settings)
    live_model = None if isinstance(model, str) else model
    live_data = None if isinstance(data, str) else data
    progress = progress or RunProgress(quiet=True)
    path = run_path(config, config.model.rpartition(":")[2] or type(model).__name__)
    refuse_existing(path)
    if config.ledger:
        refuse_password(config.ledger)
    if example_inputs is not None:
        example_tensors(example_inputs)
    prepared = prepare(config, live_model, live_data, example_inputs)
    recipe = Recipe(config, prepared.problem, live_model, live_data)
    if config.workers:
        pickled(recipe)
    evaluate = recipe.evaluator(prepared.model, prepared.data)
    dense = evaluate.evaluate_dense()  # refuses a network that answers NaN
    if config.ledger:
        Ledger.refuse_existing(config.ledger, path.name)
    run = RunDirectory.create(path, config, prepared.problem, prepared.example)
    progress.say(
        f"run {run.path}: {prepared.name}, {len(prepared.space.groups)} groups, {', '.join(config.budget)}; "
        f"dense: loss {dense['loss']:.4f}, top-1 {dense['top1']:.4f} on the validation images"
    )
    return _go(run, prepared, recipe, evaluate, progress, fresh=True)


def resume(
    run_dir: str | Path,
    model: nn.Module | None = None,
    data: ImageData | None = None,
    *,
    progress: RunProgress | None = None,
    **settings: Any,
) -> SearchResult:
    """Go on with a run, exactly where it was stopped.

    Args:
        run_dir: results/<run>.
        model: The dense network, if the run was started with an nn.Module object.
        data: The data, if the run was started with an `ImageData` object.
        progress: Where to show progress; default nowhere.
        **settings: What may change: workers, device, timeout, onnx, pt2, and trials (more of them, remembered).

    Raises:
        ValueError: If it is no run, another problem, or is being written by another process.
    """
    run = changed_run(RunDirectory.open(run_dir), "resume", settings, "workers device timeout trials onnx pt2")
    progress = progress or RunProgress(quiet=True)
    prepared = reopen(run, model, data)
    recipe = Recipe(run.config, prepared.problem, model, data)
    return _go(run, prepared, recipe, recipe.evaluator(prepared.model, prepared.data), progress, fresh=False)


def _go(
    run: RunDirectory, prepared: Prepared, recipe: Recipe, evaluate: Any, progress: RunProgress, fresh: bool
) -> SearchResult:
    """Everything after the preparation; may be repeated."""
    config, fingerprint = run.config, prepared.fingerprint()
    groups = {g.name: g.size for g in prepared.space.groups}
    with Ledger.open(run.path, groups, fingerprint, url=config.ledger, study=run.study, fresh=fresh) as ledger:
        if not fresh:
            progress.say(f"run {run.path}: resumed, {len(ledger.trials)} trials so far")
            run.remember(trials=config.trials)
        before = list(ledger.trials)
        try:
            trial = _candidates(ledger, run, prepared, recipe, evaluate, progress)
            winner = _delivered(run, prepared, trial) or _deliver(run, prepared, trial, progress)
        except KeyboardInterrupt:
            progress.end()
            progress.say(f"stopped; all finished trials are safe: autoprune resume {run.path}")
            raise
        except ValueError as error:
            if fresh and not ledger.trials and not isinstance(error, LedgerUnwritable):
                ledger.discard()
                run.remove()
            raise
        finally:
            table = run.path / "trials.csv"
            if run.path.exists() and (ledger.trials != before or not table.exists()):
                costs = {t.number: prepared.problem.feasibility.price(t.widths) for t in ledger.trials}
                write_csv(table, ledger.trials, costs, list(groups))
    return SearchResult(
        trial.widths, trial, run.path, prepared.space, winner.model, prepared.example, winner.costs, winner.metrics
    )


def _delivered(run: RunDirectory, prepared: Prepared, trial: Trial) -> Winner | None:
    """The winner as it was exported, if it was; formats that are asked for and missing are added."""
    try:
        model, said = load(run.best, prepared.model), read_architecture(run.best)
    except ValueError:
        return None
    if said.get("provenance", {}).get("trial") != trial.number or tuple(said["widths"]) != trial.widths:
        return None
    onnx, pt2 = ((asked and not (run.best / name).exists()) for asked, name in _formats(run.config))
    if onnx or pt2:
        copy_export(run.best, run.best, prepared.model, prepared.example, onnx=onnx, pt2=pt2)
    return Winner(model, said["costs"], said["metrics"])


def _formats(config: RunConfig) -> tuple[tuple[bool, str], ...]:
    return (config.onnx, "model.onnx"), (config.pt2, "model.pt2")


def _deliver(run: RunDirectory, prepared: Prepared, trial: Trial, progress: RunProgress) -> Winner:
    """Fine-tune and export the winner."""
    progress.say(f"trial {trial.number} wins: {trial.fidelity} {metric_label(run.config.metric)} {trial.loss:.4f}")
    try:
        return deliver(run, prepared, trial, run.best, progress, checkpoint=run.checkpoint / f"{trial.number}.pt")
    except Diverged as error:
        again = f"autoprune finetune {run.path} --lr {min(run.config.lr / 10, 0.01):g} --to {run.best}"
        raise Diverged(f"{error}: the search is done and safe, go on with `{again}`") from error


def _candidates(
    ledger: Ledger, run: RunDirectory, prepared: Prepared, recipe: Recipe, evaluate: Any, progress: RunProgress
) -> Trial:
    """Run the search to its end and return the winner."""
    config, problem = run.config, prepared.problem
    strategy = make(config.strategy, problem, config.seed, config.encoding, num_trials=config.trials)
    controller = SearchController(
        ledger,
        open_with(config.warm_starts, strategy),
        config.schedule,
        project=problem.repair,
    )
    done = [t for t in ledger.trials if t.state is not TrialState.RUNNING]
    progress.begin_search(config, done)
    if config.workers:
        patience = _patience(ledger, config.timeout)
        run_processes(controller, recipe, config.workers, recipe.devices(), patience, progress)
    else:
        run_here(controller, lambda job: evaluate(job.widths, job.fidelity, job.incumbent), listener=progress)
    progress.end()
    if controller.best is None:
        raise SearchStopped(f"run '{prepared.name}': no candidate could be evaluated; trials.csv says why")
    return controller.best


def _patience(ledger: Ledger, timeout_s: float) -> Callable[[Job], float]:
    """After how many seconds a worker is taken for hung; without a timeout, never before the first result is there."""

    def limit_s(job: Job) -> float:
        done = (TrialState.COMPLETE, TrialState.PRUNED)
        slowest = max((t.seconds for t in ledger.trials if t.fidelity == job.fidelity and t.state in done), default=0.0)
        return timeout_s or (max(PATIENCE_S, PATIENCE * slowest) if slowest else math.inf)

    return limit_s
