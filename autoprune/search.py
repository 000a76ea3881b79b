"""`search`, `resume`, `finetune`, `export_run`: the verbs. Wiring and nothing else.

A run goes: prepare (check and score) -> candidates by proxy -> finalists after a short fine-tune -> the winner's long
fine-tune -> export. Each part leaves its state in the run's directory, so `resume` goes on wherever it was stopped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from autoprune.config import RunConfig
from autoprune.config import replace as change
from autoprune.controller import SearchController
from autoprune.data import ImageData
from autoprune.errors import SearchStopped
from autoprune.export import copy_export
from autoprune.ledger import Ledger
from autoprune.problem import Trial
from autoprune.report import RunProgress, write_csv
from autoprune.runs import (
    Prepared,
    Recipe,
    RunDirectory,
    SearchResult,
    deliver,
    prepare,
    refuse_existing,
    run_path,
)
from autoprune.schedule import num_evaluations
from autoprune.strategies import make, warm_starts
from autoprune.strategies.closed_form import ClosedForm
from autoprune.workers import run_here, run_processes


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
    prepared = prepare(config, live_model, live_data, example_inputs)
    recipe = Recipe(config, prepared.problem, live_model, live_data)
    evaluate = recipe.evaluator(prepared.model, prepared.data)
    dense = evaluate.evaluate_dense()  # refuses a network that answers NaN
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
        **settings: What may change: workers, device, trials (more of them), onnx, pt2.

    Raises:
        ValueError: If it is no run, another problem, or is being written by another process.
    """
    if unfit := settings.keys() - {"workers", "device", "trials", "onnx", "pt2"}:
        raise ValueError(f"resume: {sorted(unfit)} may not change; only workers, device, trials, onnx and pt2 may")
    run = RunDirectory.open(run_dir)
    run = RunDirectory(run.path, change(run.config, **settings))
    progress = progress or RunProgress(quiet=True)
    prepared = reopen(run, model, data)
    recipe = Recipe(run.config, prepared.problem, model, data)
    return _go(run, prepared, recipe, recipe.evaluator(prepared.model, prepared.data), progress, fresh=False)


def finetune(
    run_dir: str | Path,
    model: nn.Module | None = None,
    data: ImageData | None = None,
    *,
    trial: int | None = None,
    to: str | Path | None = None,
    progress: RunProgress | None = None,
    **settings: Any,
) -> Path:
    """Fine-tune the winner of a run (or another trial) from the dense weights, with other settings, and export it.

    Args:
        run_dir: results/<run>.
        model: As in `resume`.
        data: As in `resume`.
        trial: Number of a trial; default the winner.
        to: Where the export goes; default best/ in the run, or trial-N/.
        progress: Where to show progress; default nowhere.
        **settings: epochs, lr, distill, batch_size, device, onnx, pt2.

    Returns:
        Where the export is.
    """
    run = RunDirectory.open(run_dir)
    run = RunDirectory(run.path, change(run.config, **settings))
    prepared = reopen(run, model, data)
    chosen = run.trial(trial)
    target = _target(run, trial, to)
    deliver(run, prepared, chosen, target, progress or RunProgress(quiet=True), checkpoint=None)
    return target


def export_run(
    run_dir: str | Path,
    model: nn.Module | None = None,
    data: ImageData | None = None,
    *,
    trial: int | None = None,
    to: str | Path | None = None,
    **settings: Any,
) -> Path:
    """Export the winner of a run again (with ONNX, say), or another trial of it as it is before any fine-tune.

    Args:
        run_dir: results/<run>.
        model: As in `resume`.
        data: As in `resume`, for another trial.
        trial: Number of a trial; default the winner, fine-tuned.
        to: Where the export goes; default best/ in the run, or trial-N/.
        **settings: onnx, pt2, device.

    Returns:
        Where the export is.
    """
    run = RunDirectory.open(run_dir)
    run = RunDirectory(run.path, change(run.config, **settings))
    target = _target(run, trial, to)
    if trial is not None:
        untrained = RunDirectory(run.path, change(run.config, epochs=0))
        deliver(untrained, reopen(run, model, data), run.trial(trial), target, RunProgress(quiet=True), checkpoint=None)
        return target
    if not (run.best / "architecture.json").is_file():
        raise ValueError(f"run '{run.path}': has no winner yet; `autoprune resume {run.path}`, or choose a --trial")
    return copy_export(run.best, target, model, run.example(), onnx=run.config.onnx, pt2=run.config.pt2)


def reopen(run: RunDirectory, model: nn.Module | None = None, data: ImageData | None = None) -> Prepared:
    """The problem of a run as it was prepared, with the very same scores.

    Raises:
        ValueError: If the model or the data was given as an object and is not given now.
    """
    for name, given in (("model", model), ("data", data)):
        if given is None and not getattr(run.config, name):
            raise ValueError(
                f"run '{run.path}': was started from a {name} object, and nothing on disk says how to build it; "
                f"in Python: autoprune.resume('{run.path}', {name}=...)"
            )
    return prepare(run.config, model, data, run.example(), run.scores())


def _target(run: RunDirectory, trial: int | None, to: str | Path | None) -> Path:
    if to is not None:
        return Path(to)
    return run.best if trial is None else run.path / f"trial-{trial}"


def _go(
    run: RunDirectory, prepared: Prepared, recipe: Recipe, evaluate: Any, progress: RunProgress, fresh: bool
) -> SearchResult:
    """Everything after the preparation; may be repeated."""
    config = run.config
    groups = {g.name: g.size for g in prepared.space.groups}
    with Ledger.open(run.path, groups, prepared.fingerprint(), url=config.storage, fresh=fresh) as ledger:
        if not fresh:
            progress.say(f"run {run.path}: resumed, {len(ledger.trials)} trials so far")
        try:
            trial = _candidates(ledger, prepared, recipe, evaluate, progress)
            progress.say(f"trial {trial.number} wins: {trial.fidelity} loss {trial.loss:.4f}; fine-tuning it")
            winner = deliver(run, prepared, trial, run.best, progress, checkpoint=run.checkpoint / f"{trial.number}.pt")
        except KeyboardInterrupt:
            progress.end()
            progress.say(f"stopped; all finished trials are safe: autoprune resume {run.path}")
            raise
        finally:
            costs = {t.number: prepared.problem.feasibility.price(t.widths) for t in ledger.trials}
            write_csv(run.path / "trials.csv", ledger.trials, costs, list(groups))
    return SearchResult(
        trial.widths, trial, run.path, prepared.space, winner.model, prepared.example, winner.costs, winner.metrics
    )


def _candidates(ledger: Ledger, prepared: Prepared, recipe: Recipe, evaluate: Any, progress: RunProgress) -> Trial:
    """Run the search to its end and return the winner."""
    config, problem = prepared.config, prepared.problem
    strategy = make(config.strategy, problem, config.seed, num_trials=config.trials)
    controller = SearchController(
        ledger,
        strategy,
        num_trials=config.trials,
        warm_starts=() if isinstance(strategy, ClosedForm) or not config.warm_starts else warm_starts(problem),
        finalists=(config.finalists, "short"),
    )
    done = [t for t in ledger.trials if t.state.value != "running"]
    progress.begin("searching", config.trials + config.finalists, num_evaluations(done), done)
    if config.workers:
        run_processes(controller, recipe, config.workers, recipe.devices(), listener=progress)
    else:
        run_here(controller, lambda job: evaluate(job.widths, job.fidelity, job.incumbent), listener=progress)
    progress.end()
    if controller.best is None:
        raise SearchStopped(f"run '{prepared.name}': no candidate could be evaluated; trials.csv says why")
    return controller.best
