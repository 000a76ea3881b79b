"""The winner's way out: prune, fine-tune, measure, export."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.errors import Diverged
from autoprune.evaluation import measure_by_class
from autoprune.exporting import copy_export, export, fixed_batch, load, read_architecture
from autoprune.ledger.versions import decisive, versions
from autoprune.printable import decimals
from autoprune.problem import Trial
from autoprune.report import RunProgress, counted
from autoprune.report.trained import METHOD_TRAINING
from autoprune.runs.beside import keep_attached
from autoprune.runs.directory import RunDirectory
from autoprune.runs.driving import afterwards, drive_out, drives
from autoprune.runs.holding import Outcome
from autoprune.runs.levels import about_levels
from autoprune.runs.prepare import Prepared, unusual
from autoprune.runs.recipe import AtHome
from autoprune.runs.recovering import finalist_weights, recover
from autoprune.runs.telling import PER_CLASS, held_out, per_class
from search_spaces import Kept, NestedNetwork, prune


@dataclass(frozen=True, eq=False)
class Winner:
    """A delivered network.

    Attributes:
        model: Pruned and fine-tuned (or from before that, see `recover`), in eval mode, on the CPU.
        costs: Per cost name, its "dense" and "pruned" value; a latency as measured where it was.
        metrics: "dense_val", "dense_test", "pruned_val", "pruned_test"; "before_finetune_val", "finalist_val",
            "after_finetune_val", "training" (see `recover`); "per_class" (see `telling`); by metric what was measured
            for a budget on a latency (see `LatencyMeter.figures`).
    """

    model: nn.Module
    costs: dict[str, dict[str, float]]
    metrics: dict[str, dict[str, Any]]


def deliver(
    run: RunDirectory,
    prepared: Prepared,
    kept: Kept,
    trial: Trial,
    target: Path,
    progress: RunProgress,
    checkpoint: Path | None,
    measured: Mapping[str, dict[str, float]] | None = None,
    finalist: Mapping[str, Tensor] | None = None,
    ends_run: bool = False,
) -> Winner:
    """Fine-tune the network of the units that stay, from the dense weights; compare it with the dense one; export it.

    Args:
        run: Where, and with which settings.
        prepared: The problem.
        kept: Per group the units that stay: of a trial's widths (`Prepared.kept`), or as a method chose them.
        trial: What the export says that it is of.
        target: Directory of the export.
        progress: Where to show progress.
        checkpoint: File that lets the fine-tune go on after a stop; None: none.
        measured: By metric, what was measured for a budget on a latency.
        finalist: The weights that the trial was scored with after its short fine-tune.
        ends_run: Whether the run ends with it, so that the export says how long that was at work.
    """
    config, task, space = run.config, prepared.task, prepared.space
    started = time.monotonic()
    model, kept, finetuned = _recovered(run, prepared, kept, progress, checkpoint, finalist)
    found = {
        (name, split): measure_by_class(net, task, split, device=config.device)
        for split in ("val", "test")
        for name, net in (("dense", prepared.model), ("pruned", model))
        if task.has(split)
    }
    for (name, split), (scores, _) in found.items():
        if name == "dense" and not math.isfinite(scores["loss"]):
            progress.say(f"{task.where(split)}: the loss of the dense network is {scores['loss']} on all of it; check "
                         "for inputs or targets that are NaN or infinite")  # fmt: skip
    metrics: dict[str, dict[str, Any]] = {f"{name}_{split}": scores for (name, split), (scores, _) in found.items()}
    split = held_out(task)
    if by_class := per_class(task, split, found["dense", split][1], found["pruned", split][1]):
        metrics[PER_CLASS] = by_class
    metrics |= finetuned | dict(measured or {})
    if prepared.course:
        metrics[METHOD_TRAINING] = dict(prepared.course)
    if left_out := task.skipped():
        progress.say(f"{counted(len(left_out), f'{task.sample} file')} that cannot be read were left out, the first is "
                     f"'{left_out[0]}'")  # fmt: skip
    prepared.model.cpu()
    model.cpu().to(memory_format=torch.contiguous_format)  # as `load` gives it back
    price = prepared.problem.feasibility.price
    whole, pruned = price(space.full), price(tuple(map(len, kept)))
    costs = measured_costs({name: {"dense": whole[name], "pruned": pruned[name]} for name in whole}, metrics)
    levels: dict[str, Any] = (
        {}
        if prepared.nested is None
        else {
            "nested": prepared.nested.eval(),
            "levels": about_levels(prepared.nested, prepared.problem, task, config, progress.say),
        }
    )
    keep_attached(target, progress.say)
    export(
        target,
        model,
        space=space,
        kept=kept,
        reference=prepared.reference,
        costs=costs,
        metrics=metrics,
        provenance=_provenance(run, prepared, trial, time.monotonic() - started, ends_run),
        inputs=task.inputs(),
        outputs=task.outputs(),
        example_inputs=prepared.example,
        onnx=config.onnx,
        pt2=config.pt2,
        **levels,
    )
    if config.onnx and (only := fixed_batch(target)):
        progress.say(only)
    return Winner(model.eval(), costs, metrics)


def help_train(run: RunDirectory, prepared: Prepared, kept: Kept, checkpoint: Path) -> None:
    """Take part in the fine-tune of `deliver` as a further process, which neither measures nor writes anything."""
    _recovered(run, prepared, kept, RunProgress(quiet=True), checkpoint)


def _recovered(
    run: RunDirectory,
    prepared: Prepared,
    kept: Kept,
    progress: RunProgress,
    checkpoint: Path | None,
    finalist: Mapping[str, Tensor] | None = None,
) -> tuple[nn.Module, Kept, dict[str, dict[str, Any]]]:
    """The network of some units, trained; those that it has kept; and what was measured on the way."""
    if prepared.nested is not None:  # all levels have been trained to the end
        return *prepared.nested.alone(prepared.nested.names[0]), {}
    config, dense = run.config, prepared.trained or prepared.model
    if drives(config):
        dense, kept = drive_out(config, prepared, kept, progress, checkpoint)
    model = prune(dense, prepared.space, kept)
    model, told = recover(afterwards(config, prepared.spare), prepared, model, kept, progress, checkpoint, finalist)
    return model, kept, told


def deliver_held(
    run: RunDirectory, prepared: Prepared, outcome: Outcome, evaluate: AtHome, progress: RunProgress
) -> Winner:
    """Fine-tune and export the winner of a search, as a finalist if that is better, unless that has been done.

    Raises:
        Diverged: If the training loss becomes NaN or infinite; the run can be resumed.
    """
    trial, file = outcome.trial, run.checkpoint / f"{outcome.trial.number}.pt"
    if there := _delivered(run, prepared, trial, progress.say):
        return there
    run.check_places()  # once more: what came during the search is seen before the fine-tune
    if not run.config.method:
        progress.say(f"trial {trial.number} wins: {trial.fidelity} {run.metric} {decimals(trial.loss)}")
    more: dict[str, Any] = {"checkpoint": file, "measured": outcome.figures, "ends_run": True}
    if trial.fidelity.trains and not drives(run.config):  # which may keep other units
        more["finalist"] = finalist_weights(evaluate.made, trial, progress.say)
    evaluate.let_go(over=True)  # the training needs the memory of its samples
    prepared.task.forget()
    try:
        return deliver(run, prepared, prepared.kept(trial), trial, run.best, progress, **more)
    except Diverged as error:
        again = f"autoprune finetune {run.path} --lr {min(run.config.lr / 10, 0.01):g} --to {run.best}"
        raise Diverged(f"{error}: the search is done and safe, go on with `{again}`") from error


def _delivered(run: RunDirectory, prepared: Prepared, trial: Trial, say: Callable[[str], None]) -> Winner | None:
    """The winner as it was exported, if it was; formats that are asked for and missing are added."""
    try:
        model, said = load(run.best, prepared.model), read_architecture(run.best)
    except ValueError:
        return None
    if isinstance(model, NestedNetwork):
        model, _ = model.alone(model.names[0])
    if said.get("provenance", {}).get("trial") != trial.number or tuple(said["widths"]) != trial.widths:
        return None
    formats = (run.config.onnx, "model.onnx"), (run.config.pt2, "model.pt2")
    onnx, pt2 = (asked and not (run.best / name).exists() for asked, name in formats)
    if onnx or pt2:
        copy_export(run.best, run.best, prepared.model, prepared.example, onnx=onnx, pt2=pt2)
    if onnx and (only := fixed_batch(run.best)):
        say(only)
    return Winner(model, measured_costs(said["costs"], said["metrics"]), said["metrics"])


def measured_costs(
    costs: Mapping[str, dict[str, float]], metrics: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, float]]:
    """The costs with each latency as it was measured, where it was; of the others the prediction stays.

    Args:
        costs: Per cost name, its "dense" and "pruned" value.
        metrics: Per metric what was measured for a budget on it (see `LatencyMeter.figures`), among others.
    """
    took = {name: metrics[name] for name in costs if "pruned_ms" in metrics.get(name, {})}
    return {**costs, **{n: {"dense": said["dense_ms"], "pruned": said["pruned_ms"]} for n, said in took.items()}}


def _provenance(run: RunDirectory, prepared: Prepared, trial: Trial, seconds: float, ends_run: bool) -> dict[str, Any]:
    config, left_out = run.config, prepared.task.skipped()
    started = prepared.started if ends_run else None  # None, too, where nobody knows what the run took before
    return {
        "run": run.path.name,
        "trial": trial.number,
        "trial_loss": trial.loss if math.isfinite(trial.loss) else None,
        "fidelity": trial.fidelity,
        "budget": list(config.budget),
        "strategy": config.strategy,
        "criterion": config.criterion,
        "seed": config.seed,
        "data": {
            "spec": prepared.task.spec,
            "split": prepared.task.split,
            "fingerprint": prepared.task.fingerprint,
            **({"skipped": len(left_out), "skipped_first": left_out[:10]} if left_out else {}),
        },
        "finetune": {
            **({"method": config.method, "method_epochs": prepared.method_epochs} if config.method else {}),
            **({"prune_when": config.prune_when} if config.prune_when else {}),
            "recovery": config.recovery,
            **({"recovery_args": dict(config.recovery_args)} if config.recovery_args else {}),
            **({"prune_share": config.prune_share} if drives(config) else {}),
            "reconstruct": afterwards(config).reconstruct,
            "epochs": config.epochs + prepared.spare,
            "lr": config.lr,
            "distill": config.distill,
            "batch_size": config.batch_size,
            **unusual(config),
            **({"trainer": str(config.trainer)} if config.trainer else {}),
        },
        "finetune_seconds": round(seconds, 1),
        **({"run_seconds": round(time.monotonic() - started, 1)} if started is not None else {}),
        "fingerprint": prepared.fingerprint(),
        "versions": versions(),
        **({"begun_with": dict(begun)} if (begun := prepared.begun_with) and begun != decisive() else {}),
    }
