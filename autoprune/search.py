"""`search` and `resume`: the verbs that search. Wiring and nothing else.

A run goes: prepare (check and score) -> candidates by proxy -> finalists after a short fine-tune -> under a latency
budget they are measured, until one holds it -> the winner's long fine-tune -> export. Each part leaves its state in the
run's directory, so `resume` goes on wherever it was stopped.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from autoprune.config import RunConfig, names_of
from autoprune.config import replace as change
from autoprune.controller import SearchController
from autoprune.data import ImageData
from autoprune.errors import DeliveredElsewhere, LedgerUnwritable, SearchStopped
from autoprune.files import DiskError, check_room, check_writable
from autoprune.ledger import Ledger, held, refuse_password
from autoprune.limits import longer
from autoprune.printable import decimals
from autoprune.problem import TrialState
from autoprune.process import Stopped
from autoprune.reference import size_of
from autoprune.report import RunProgress, counted, ending, renew, resuming, so_far
from autoprune.report.pace import NOTE, Samples
from autoprune.runs import (
    REFERENCES,
    AtHome,
    LatencyMeter,
    Measurements,
    Origin,
    Prepared,
    Recipe,
    RunDirectory,
    SearchResult,
    agree_on_plan,
    agreed,
    allow,
    at_home,
    by_name,
    calls_of,
    changed_run,
    check_begun,
    check_callbacks,
    check_delivery,
    check_end,
    check_joined,
    check_method,
    check_recovery,
    check_sendable,
    counted_samples,
    deliver_held,
    example_tensors,
    find_units,
    hold,
    joined_latency,
    joined_scores,
    leave_to_leader,
    make_controller,
    note_versions,
    notes_of,
    patience,
    prepare,
    refuse_existing,
    reopen,
    reserved,
    resumable,
    run_path,
    say_delivered,
    search_on_cluster,
    set_aside,
    shared,
    slots,
    trains,
    with_memory,
    write_table,
)
from autoprune.schedule import ranked
from autoprune.tasks import Task
from autoprune.trust import remember
from autoprune.workers import pickled, run_here, run_processes
from autoprune.workers.cluster import Share
from autoprune.workers.memory import keep_few_kernels

EXTENT = "trials time target max_failures max_failure_rate"  # how much is searched: a resume may change it for good


def search(
    model: nn.Module | str,
    data: Task | ImageData | str | None,
    budget: str | list[str] | tuple[str, ...] | None = None,
    *,
    example_inputs: Any = None,
    progress: RunProgress | None = None,
    callbacks: Sequence[Any] = (),
    **settings: Any,
) -> SearchResult:
    """Search the widths of a trained network under budgets, fine-tune the winner and export it.

    Args:
        model: The dense network, or "package.module:factory" (with `weights="file"`). A run of an nn.Module object can
            be resumed by `resume(run_dir, model=...)` only, since nothing on disk says how to build it.
        data: "digits", "cifar10:DIR", "cifar100:DIR", "imagefolder:DIR", "package.module:function", or an `ImageData`.
        budget: One or several that must all hold: "macs<=50%", "params<=1.5M" ...; default "macs<=50%", or none where
            the whole trade-off is searched (`front="macs"`).
        example_inputs: What the network is called with; default one training image.
        progress: Where to show progress; default nowhere.
        callbacks: Of `ray.tune` (Weights & Biases, MLflow ...), where Ray runs the workers (`cluster`).
        **settings: Any other field of `RunConfig`: strategy, criterion, trials, finalists, epochs, workers, seed, name,
            device, min_keep, divisor, freeze ...

    Raises:
        ValueError: If something is wrong with what was given; nothing has been written then.
        SearchStopped: If too many candidates fail, or none holds a latency budget when it is measured; the run can be
            resumed.
        DeliveredElsewhere: If it joined (`join`) a search and another controller delivers the winner.

    Example:
        result = autoprune.search(model, "cifar10:data", budget="macs<=50%")
    """
    keep_few_kernels()
    references = {k: v for k, v in (("model", model), ("data", data)) if isinstance(v, str)}
    bounds = {} if budget is None else {"budget": budget}
    config = with_memory(at_home(RunConfig.make(**references, **bounds, **settings)))
    in_processes = not config.cluster and bool(slots(config))  # refuses devices that are not there
    live_model = None if isinstance(model, str) else model
    live_data = None if isinstance(data, str) else data
    progress = progress or RunProgress(quiet=True)
    path = run_path(config, config.model.rpartition(":")[2] or type(model).__name__)
    check_callbacks(config, callbacks)
    if config.ledger:
        refuse_password(config.ledger)
    scores = joined_scores(config, path) if config.join else None
    if config.join and (path / "config.toml").is_file():  # it was here before
        remember(calls_of(config))  # what the run names beyond that is asked for
        again = {name: getattr(config, name) for name in names_of("resume") if name in settings}
        return resume(path, live_model, live_data, progress=progress, **again)
    refuse_existing(path, config.ledger)
    check_writable(path)
    if config.ledger and not config.join:
        Ledger.refuse_existing(config.ledger, path.name)
    if example_inputs is not None:
        example_tensors(example_inputs)
    latency = joined_latency(config, path) if config.join else None

    def check(prepared: Prepared) -> None:
        check_delivery(config, prepared, trains=trains(config))
        check_recovery(config, prepared)

    prepared = prepare(config, live_model, live_data, example_inputs, scores, latency, say=progress.say, check=check)
    if config.join:
        check_joined(prepared, path)
    recipe = Recipe.of(RunDirectory(path, config), prepared, live_model, live_data)
    if in_processes:
        pickled(recipe)
    if config.cluster:
        check_sendable(recipe, prepared)
    evaluate = recipe.at_home(prepared.model, prepared.task)
    dense = evaluate.evaluate_dense()  # refuses a network that answers NaN
    caveat = check_method(config, prepared)
    said = [*notes_of(prepared), *filter(None, [caveat])]
    check_room(path, 3 * size_of(prepared.model))
    if config.ledger and not config.join:
        Ledger.refuse_existing(config.ledger, path.name)
    with reserved(config) as share:
        run = RunDirectory.create(path, config, prepared.problem, prepared.example, prepared.task.labels())
        remember(calls_of(config))
        labels = prepared.task.labels()
        score, also = labels.headline, ""
        if score.name in dense and score.name != "loss":
            also = f", {score.label} {dense[score.name]:.4f}"
        progress.say(
            f"run {run.path}: {prepared.name}, {counted(len(prepared.space.groups), 'group')}, {config.goal}; "
            f"dense: {labels.score(config.metric).minimised} {decimals(dense['loss'])}{also} on the validation "
            f"{labels.samples}"
        )
        for line in said:
            progress.say(line)
        return _run(run, prepared, recipe, evaluate, progress, share, callbacks, fresh=not (config.join or share))


def resume(
    run_dir: str | Path,
    model: nn.Module | str | None = None,
    data: Task | ImageData | str | None = None,
    *,
    restart: bool = False,
    allow_version_change: bool = False,
    trust: bool = False,
    progress: RunProgress | None = None,
    callbacks: Sequence[Any] = (),
    **settings: Any,
) -> SearchResult:
    """Go on with a run, exactly where it was stopped.

    Args:
        run_dir: results/<run>.
        model: The dense network, if the run was started with an nn.Module object; or "package.module:factory" (with
            `weights="file"`), which the run remembers if these are its weights.
        data: The data, if the run was started with an `ImageData` object; or what names them.
        restart: Begin the search anew; all that it has made is kept in before-restart-1/ in the run.
        allow_version_change: Go on with other versions of torch, optuna or autoprune than so far; it is noted.
        trust: What the run names may be imported, run and connected to, though you have not had it called on this
            machine before (see SECURITY.md); it is remembered.
        progress: Where to show progress; default nowhere.
        callbacks: Of `ray.tune` (Weights & Biases, MLflow ...), where Ray runs the workers (`cluster`).
        **settings: What may change: workers, devices, per_device, cluster ("" for none), device, timeout, onnx, pt2;
            trials, time ("+30s": so much longer than it has worked), target, max_failures and max_failure_rate
            (remembered); and join (add this process to the controllers that search on the run's database server).

    Raises:
        NotTrusted: If it names what you have not had called on this machine before; nothing of it was imported then.
        ValueError: If it is no run, another problem, or is being written by another process.
        DeliveredElsewhere: If it joined others and one of them delivers the winner.
    """
    keep_few_kernels()
    if "devices" in settings:
        settings.setdefault("device", "auto")
    progress = progress or RunProgress(quiet=True)
    model, data, settings = by_name(model, data, settings)
    further = settings.pop("time") if str(settings.get("time", "")).startswith("+") else ""
    run = changed_run(RunDirectory.open(run_dir, trust), "resume", settings)
    allow(run, trust, settings, model, data)
    news = "" if restart else check_begun(run)
    record = None if restart or news else run.record()
    begun_with = agreed(record, run.path, allow_version_change) if record else None
    time = {"time": longer(further, record.worked_s if record else 0.0)} if further else {}
    run = RunDirectory(run.path, at_home(change(run.config, **time)))
    check_callbacks(run.config, callbacks)
    if not restart:
        run.check_places()
    if not run.config.cluster:
        slots(run.config)  # refuses devices that are not there
    check_end(run.config)
    prepared = replace(reopen(run, "resume", model, data), begun_with=begun_with, started=None)
    check_room(run.path, 2 * size_of(prepared.model))
    if not (run.best / "architecture.json").exists():  # else what is missing is written at once
        check_delivery(run.config, prepared, trains=trains(run.config))
        check_recovery(run.config, prepared, begun=True)
        check_method(run.config, prepared, begun=True)
    recipe = Recipe.of(run, prepared, model, data)
    with reserved(run.config) as share:
        evaluate = recipe.at_home(prepared.model, prepared.task)
        if restart or news:
            progress.say(news or set_aside(run))
        return _run(run, prepared, recipe, evaluate, progress, share, callbacks, fresh=False)


def _run(
    run: RunDirectory,
    prepared: Prepared,
    recipe: Recipe,
    evaluate: AtHome,
    progress: RunProgress,
    share: Share | None,
    callbacks: Sequence[Any],
    fresh: bool,
) -> SearchResult:
    """Everything after the preparation, here or on a cluster; may be repeated."""
    try:
        if run.config.method:
            evaluate.let_go(over=True)
            with held(run.path):  # there is no ledger yet that would hold it
                prepared = find_units(run, prepared, progress)
            recipe = Recipe.of(run, prepared, prepared.trained, prepared.task)
            evaluate = recipe.at_home(prepared.trained or prepared.model, prepared.task)
        meter = LatencyMeter(prepared, prepared.problem.budgets, progress.say)
        while True:
            if share:
                _on_cluster(run, prepared, recipe, progress, share, callbacks)
            if result := _go(run, prepared, recipe, evaluate, progress, meter, fresh):
                return result
    except KeyboardInterrupt as stop:
        progress.end()
        kept = "the training goes on from its last checkpoint" if run.config.method else "all finished trials are safe"
        progress.say(f"stopped; {kept}: {resuming(run)}")
        more = f"the run is in {run.path}; go on with: {resuming(run)}"
        raise Stopped(stop, more) from None  # where in the arithmetic it was would bury the line above
    except (RuntimeError, MemoryError, DiskError) as error:
        if said := resumable(error, run):
            raise said from error
        raise
    finally:
        renew(run, progress.say)


def _on_cluster(
    run: RunDirectory,
    prepared: Prepared,
    recipe: Recipe,
    progress: RunProgress,
    share: Share,
    callbacks: Sequence[Any],
) -> None:
    """All candidates that are asked for by now, on a cluster; `_go` then finds none left."""
    config = run.config
    try:
        record = run.record()
        trials, worked_s, measured = record.trials, record.worked_s, Measurements.of(record.notes)
    except ValueError:  # it begins
        trials, worked_s, measured = [], 0.0, Measurements()
    if trials:
        progress.say(f"run {run.path}: {so_far(trials)}")
    done = [t for t in trials if t.state is not TrialState.RUNNING]
    samples = counted_samples(prepared.task)
    shared_by, has = change(config, workers=share.num_workers), prepared.space.has_batch_norm
    progress.begin_search(shared_by, done, worked_s, measured, samples, run.labels, has)
    extent = run.as_written(*EXTENT.split(), *REFERENCES)
    try:
        search_on_cluster(run, prepared, recipe, share, progress, callbacks, extent, progress.say)
    finally:
        progress.end()


def _go(
    run: RunDirectory,
    prepared: Prepared,
    recipe: Recipe,
    evaluate: AtHome,
    progress: RunProgress,
    meter: LatencyMeter,
    fresh: bool,
) -> SearchResult | None:
    """All candidates that are left to evaluate, the finalists and the winner; None: more are left, for the cluster."""
    config, fingerprint = run.config, prepared.fingerprint()
    groups = {g.name: g.size for g in prepared.space.groups}
    where: dict[str, Any] = {"url": config.ledger, "study": run.study, "fresh": fresh, "join": config.join}
    with Ledger.open(run.path, groups, fingerprint, **where, arrays=shared(prepared.problem)) as ledger:
        ledger.hear(progress.say)
        if not fresh:
            if not config.cluster:
                said = "joined" if config.join else "resumed"
                also = "" if config.method else f", {so_far(ledger.trials, config.join)}"
                progress.say(f"run {run.path}: {said}{also}")
            run.remember(**run.as_written(*EXTENT.split(), *REFERENCES))
        note_versions(ledger)
        agree_on_plan(ledger, config, run.path)
        if NOTE not in ledger.notes:
            ledger.note(NOTE, counted_samples(prepared.task).to_json())
        try:
            while True:
                outcome = hold(
                    _candidates(ledger, run, prepared, recipe, evaluate, progress),
                    prepared,
                    meter,
                    before=lambda best: leave_to_leader(ledger, best, run.path) if config.join else None,
                    where=run.path,
                )
                if outcome:
                    break
                if config.cluster:
                    return None
            what = "training" if run.config.method else "search"
            progress.say(f"{what} ended: {ending(run, ledger, is_over=True)}")
            trial = outcome.trial
            winner = deliver_held(run, prepared, outcome, evaluate, progress)
            shutil.rmtree(run.trained, ignore_errors=True)
            say_delivered(ledger, trial, run.path, outcome.best)
        except DeliveredElsewhere:
            shutil.rmtree(run.trained, ignore_errors=True)
            raise
        except ValueError as error:
            if fresh and not ledger.trials and not isinstance(error, LedgerUnwritable):
                ledger.discard()
                run.remove()
            raise
        finally:
            write_table(run, prepared, ledger, progress)
    origin = Origin.of(run, winner.model, recipe.model, recipe.task)
    found: dict[str, Any] = {"example": prepared.example, "costs": winner.costs, "metrics": winner.metrics}
    return SearchResult(trial.widths, trial, run.path, prepared.space, winner.model, **found, origin=origin)


def _candidates(
    ledger: Ledger, run: RunDirectory, prepared: Prepared, recipe: Recipe, evaluate: AtHome, progress: RunProgress
) -> SearchController:
    """Evaluate all candidates that the schedule asks for by now."""
    config = run.config
    controller = make_controller(ledger, config, prepared.problem)
    done = [t for t in ledger.trials if t.state is not TrialState.RUNNING]
    places = () if config.cluster else slots(config)  # on a cluster they have all been evaluated
    measured = Measurements.of(ledger.notes)
    samples = Samples.of(ledger.notes)
    shared_by, has = change(config, workers=len(places)), prepared.space.has_batch_norm
    progress.begin_search(shared_by, done, ledger.worked_s, measured, samples, run.labels, has)
    if places:
        evaluate.let_go()  # the workers need the memory of its device
        run_processes(controller, recipe, places, patience(ledger, config.timeout), progress, progress.say)
    else:
        several = recipe.several(evaluate) if config.together > 1 else None
        run_here(
            controller, lambda job: evaluate(job.widths, job.fidelity, job.incumbent), listener=progress,
            several=several, together=config.together,
        )  # fmt: skip
    progress.end()
    shutil.rmtree(recipe.checkpoints, ignore_errors=True)  # of candidates that failed
    if not ranked(ledger.trials):
        why = next((f" ({trial.error})" for trial in reversed(ledger.trials) if trial.error), "")
        raise SearchStopped(f"run '{prepared.name}': no candidate could be evaluated{why}; trials.csv has all of them")
    return controller
