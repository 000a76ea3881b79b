"""`attach`: a network that was trained elsewhere becomes the one that a run delivers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from autoprune.architecture import space_of
from autoprune.config import RunConfig
from autoprune.data import ImageData
from autoprune.errors import RunIsLive
from autoprune.exporting import check_target, export_again, read_architecture, rebuild
from autoprune.files import as_path
from autoprune.labels import LOSS, Labels, Score
from autoprune.ledger import check_same, held, holder, writers
from autoprune.problem import TrialState
from autoprune.reference import load_weights, read_weights
from autoprune.report import RunProgress, apart, renew
from autoprune.runs.allowing import allow
from autoprune.runs.beside import attached, keep_beside
from autoprune.runs.directory import RunDirectory
from autoprune.runs.levels import refuse_levels
from autoprune.runs.prepare import check_formats, load_task
from autoprune.runs.reopening import by_name, changed_run, unnamed
from autoprune.runs.trained import (
    PREVIOUS,
    Trained,
    dense_network,
    fitted,
    is_network,
    remeasured,
    unwrapped,
)
from autoprune.tasks import Task, as_task
from search_spaces import Dresser, Widths


def attach(
    run_dir: str | Path,
    weights: Trained | str | Path,
    model: nn.Module | str | None = None,
    data: Task | ImageData | str | None = None,
    *,
    to: str | Path | None = None,
    trust: bool = False,
    progress: RunProgress | None = None,
    **settings: Any,
) -> Path:
    """Make a network that was trained elsewhere the one that a run delivers: `load(".../best")`, trained as you like.

    It is checked, measured on the validation and test images, and exported with the formats that the run asked for or
    that are there. What was delivered before is kept beside it (best-replaced-1 ...). A process that dies in the middle
    leaves the old network or the new one.

    Args:
        run_dir: results/<run>.
        weights: A file (.safetensors or a torch state dict), a state dict, or the network itself: `result.model`,
            `load(".../best")`, also in a wrapper of torch (DistributedDataParallel, torch.compile, AveragedModel).
        model: As in `resume`; only its architecture is used.
        data: As in `resume`.
        to: Which export of the run gets the weights; default best/, what the run delivers.
        trust: As in `resume`.
        progress: Where to say what was done; default nowhere.
        **settings: device, onnx, pt2.

    Returns:
        Where the export is.

    Raises:
        LedgerMismatch: If the data is not what the run was begun with.
        RunIsLive: If another process is writing the run.
        ValueError: If it is no run or has no winner yet, or the weights are not those of its network (of the dense one,
            of another trial, NaN ...).
    """
    model, data, settings = by_name(model, data, settings)
    run = RunDirectory.open(run_dir, trust)
    changed = changed_run(run, "attach", settings)
    allow(changed, trust, settings, model, data)
    config = changed.config
    check_formats(config)
    say = (progress or RunProgress(quiet=True)).say
    target = as_path("to", to or run.best)
    if to is None and not (target / "architecture.json").is_file():
        raise ValueError(f"run '{run.path}': has no winner yet, so there is nothing to attach weights to; "
                         f"`autoprune resume {run.path}` first")  # fmt: skip
    try:
        with _alone(run):
            return _attach(run, config, weights, model, data, target, say)
    finally:
        renew(run, say)


def _attach(
    run: RunDirectory,
    config: RunConfig,
    weights: Trained | str | Path,
    model: nn.Module | None,
    data: Task | ImageData | None,
    target: Path,
    say: Callable[[str], None],
) -> Path:
    architecture = read_architecture(target)
    check_target(target)
    refuse_levels(target, "attach")
    space = space_of(architecture, target)
    if space.fingerprint != run.space().fingerprint:
        raise ValueError(f"'{target}': is not an export of the run '{run.path}'; give --to one of its own")
    where = str(weights) if isinstance(weights, (str, Path)) else _kind(weights)
    trained = read_weights(weights, say) if isinstance(weights, (str, Path)) else weights
    if model is None and not config.model:
        raise unnamed(run, "attach", ["model"])
    dense = dense_network(config, model, "autoprune.attach")
    try:
        network = fitted(rebuild(architecture, dense, str(target)), trained, where, run.example(), say)
    except ValueError:
        _say_whose(run, target, architecture, dense, trained, where)
        raise
    asked = {name: getattr(config, name) or (target / f"model.{name}").is_file() for name in ("onnx", "pt2")}
    formats: dict[str, Any] = asked
    if _holds(target, network):
        say(f"'{target}': holds these very weights already, so nothing was measured again")
        return export_again(target, network, architecture, run.example(), **formats)
    if data is None and not (config.data or config.task):
        raise unnamed(run, "attach", ["data"])
    task = load_task(config) if data is None else as_task(data)
    check_same({"data": run.record().fingerprint.get("data")}, {"data": task.fingerprint}, f"run '{run.path}'")
    architecture = remeasured(architecture, network, task, config, where)
    kept = keep_beside(target)
    architecture["provenance"]["attached"]["replaced"] = kept.name
    try:
        return export_again(target, network, architecture, run.example(), **formats)
    finally:  # also where a format failed, and the rest is there
        if attached(target) == architecture["provenance"]["attached"]:
            score = next((s for s in run.labels.scores if s.name == config.metric), LOSS)
            _say_what_changed(say, architecture["metrics"], score, run.labels, where, target, kept)


def _kind(weights: Trained) -> str:
    """What a network that is no file is called; refuses what is neither network nor weights."""
    if isinstance(weights, nn.Module):
        return f"a {type(unwrapped(weights)).__name__} object"
    if is_network(weights):
        return "a state dict"
    raise ValueError(f"attach: expected a network, its state dict or a file of it, got {type(weights).__name__}")


@contextmanager
def _alone(run: RunDirectory) -> Iterator[None]:
    """Nobody else writes the run meanwhile.

    Raises:
        RunIsLive: If somebody does.
    """
    with held(run.path):
        live = writers(run.path, run.record(), run.config.ledger, run.study)
        if others := [w for w in live if w != holder(run.path)]:
            raise RunIsLive(f"run '{run.path}': is being written by {', '.join(others)}; stop them, or wait")
        yield


def _say_whose(
    run: RunDirectory, target: Path, architecture: Mapping[str, Any], dense: nn.Module, trained: Trained, where: str
) -> None:
    """Weights do not fit what was exported: are they of another network of the same run?

    Raises:
        ValueError: If they are of the dense network, of another trial or of another export.
    """
    state = unwrapped(trained).state_dict() if isinstance(trained, nn.Module) else trained
    space = run.space()
    dresser, number = Dresser(dense, space), architecture["provenance"].get("trial")

    def are_of(widths: Widths) -> bool:
        try:
            load_weights(dresser.dress([np.arange(width) for width in widths]), state, where)
        except ValueError:
            return False
        return True

    if are_of(space.full):
        raise ValueError(f"weights '{where}': are those of the dense network, not of the pruned one of trial {number}; "
                         f"train what autoprune.load('{target}') gives")  # fmt: skip
    trials = [t for t in run.record().trials if t.state is TrialState.COMPLETE]
    for trial in {t.widths: t for t in reversed(trials)}.values():  # the first of those that are alike
        if trial.widths != tuple(architecture["widths"]) and are_of(trial.widths):
            other = run.path / f"trial-{trial.number}"
            raise ValueError(
                f"weights '{where}': are those of trial {trial.number}, and '{target}' holds trial {number}; "
                f"`autoprune export {run.path} --trial {trial.number}`, then attach them --to {other}"
            )
    for other in sorted(path.parent for path in run.path.glob("*/architecture.json")):  # at another budget
        try:
            widths = tuple(read_architecture(other)["widths"])
        except ValueError:  # damaged
            continue
        if len(widths) == len(space.full) and widths != tuple(architecture["widths"]) and are_of(widths):
            raise ValueError(f"weights '{where}': are those of '{other}', and '{target}' holds another network; "
                             f"attach them --to {other}")  # fmt: skip


def _holds(directory: Path, network: nn.Module) -> bool:
    """Whether an export has the very weights of the network."""
    try:
        there, here = read_weights(directory / "weights.safetensors"), network.state_dict()
    except ValueError:  # damaged: kept beside as it is
        return False
    return there.keys() == here.keys() and all(torch.equal(there[name], here[name]) for name in here)


def _say_what_changed(
    say: Callable[[str], None],
    metrics: Mapping[str, Mapping[str, float]],
    score: Score,
    labels: Labels,
    where: str,
    target: Path,
    kept: Path,
) -> None:
    told, worse = [], False
    for split, images in (("val", "validation"), ("test", "test")):
        was, now = (metrics.get(f"{which}_{split}", {}).get(score.name) for which in (PREVIOUS, "pruned"))
        if was is not None and now is not None:
            before, after = apart(was, now)
            told.append(f", {images} {score.label} {after} (was {before})")
            worse |= split == "val" and score.loss(now) > score.loss(was)
    say(f"'{target}': holds the network from {where} now{''.join(told)}; the one before it is kept in {kept}")
    if worse:
        say(f"on the validation {labels.samples} it is worse than the one before it, which comes back with "
            f"--weights {kept / 'weights.safetensors'}")  # fmt: skip
