"""`finetune` and `export_run`: what can be done with a run afterwards."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from autoprune.config import SETTINGS, RunConfig, names_of
from autoprune.config import replace as change
from autoprune.data import ImageData
from autoprune.exporting import check_target, copy_export, fixed_batch, read_architecture
from autoprune.files import as_path, check_room
from autoprune.ledger import check_same
from autoprune.problem import Trial
from autoprune.reference import ModelReference, size_of
from autoprune.report import RunProgress, renew
from autoprune.runs.allowing import allow, allow_named
from autoprune.runs.beside import keep_attached
from autoprune.runs.directory import RunDirectory
from autoprune.runs.driving import beside, check_recovery
from autoprune.runs.finding import find_units
from autoprune.runs.levels import export_level, refuse_levels
from autoprune.runs.nested import evaluated, learnt_ranking, rebudget, searches_front, why_this
from autoprune.runs.prepare import Prepared, check_delivery, check_end
from autoprune.runs.recutting import cut_until_held, known_or_measured, priced
from autoprune.runs.reopening import REFERENCES, by_name, changed_run, named, reopen, unnamed
from autoprune.runs.winner import deliver, help_train
from autoprune.settings import TrainingSettings
from autoprune.tasks import Task
from autoprune.training.parallel import process_group
from objectives import Budget, parse

TRAINING = tuple(name for name in names_of("export") if SETTINGS[name].group == "training")


def finetune(
    run_dir: str | Path,
    model: nn.Module | str | None = None,
    data: Task | ImageData | str | None = None,
    *,
    trial: int | None = None,
    to: str | Path | None = None,
    trust: bool = False,
    progress: RunProgress | None = None,
    **settings: Any,
) -> Path:
    """Fine-tune the winner of a run (or another trial) from the dense weights, with other settings, and export it.

    One that was killed goes on when it is called again. Processes that torchrun starts train together: the first one
    measures and writes.

    Args:
        run_dir: results/<run>.
        model: As in `resume`.
        data: As in `resume`.
        trial: Number of a trial; default the winner.
        to: Where the export goes; default finetuned/ in the run, or finetuned-N/.
        trust: As in `resume`.
        progress: Where to show progress; default nowhere.
        **settings: reconstruct, epochs, lr, distill, batch_size, device, onnx, pt2.

    Returns:
        Where the export is.

    Raises:
        LedgerMismatch: If the model or the data is no longer what the run was begun with.
        ValueError: If it is no run, or something else is where the export should go.
    """
    model, data, settings = by_name(model, data, settings)
    run = RunDirectory.open(run_dir)
    changed = changed_run(run, "finetune", settings)
    allow(changed, trust, settings, model, data)
    target = as_path("to", to or run.path / ("finetuned" if trial is None else f"finetuned-{trial}"))
    check_target(target)
    check_end(changed.config)
    refuse_levels(run.best, "finetune")
    chosen = run.trial(trial)
    prepared, progress = (
        _same(run, reopen(named(run, settings), "finetune", model, data)),
        progress or RunProgress(quiet=True),
    )
    check_room(target, 2 * size_of(prepared.model))
    check_delivery(changed.config, prepared, trains=changed.config.epochs > 0)
    check_recovery(changed.config, prepared)
    if run.config.method:
        prepared = replace(find_units(run, prepared, progress), spare=0.0)
    state, kept = run.checkpoint / f"{target.name}-{_digest(changed.config, chosen)}.pt", prepared.kept(chosen)
    with process_group(changed.config.device) as processes:
        if not processes.is_first:
            help_train(changed, prepared, kept, state)
            return target
        measured = known_or_measured(run, prepared, chosen, progress.say)
        deliver(changed, prepared, kept, chosen, target, progress, checkpoint=state, measured=measured)
    for file in (state, state.with_suffix(".pace.json"), beside(state, changed.config.recovery)):
        file.unlink(missing_ok=True)
    renew(run, progress.say)
    return target


def _digest(config: RunConfig, trial: Trial) -> str:
    """Tells fine-tunes apart that may not go on from each other's state."""
    driven = (config.recovery, sorted(config.recovery_args.items()))
    told = (trial.number, trial.widths, config.reconstruct, driven, TrainingSettings.of(config))
    return hashlib.sha256(repr(told).encode()).hexdigest()[:12]


def export_run(
    run_dir: str | Path,
    model: nn.Module | str | None = None,
    data: Task | ImageData | str | None = None,
    *,
    trial: int | None = None,
    budget: str | list[str] | tuple[str, ...] = (),
    to: str | Path | None = None,
    trust: bool = False,
    progress: RunProgress | None = None,
    **settings: Any,
) -> Path:
    """Export the winner of a run again (with ONNX, say), another trial of it, or its ranking cut at another budget.

    With a budget the winner's learnt ranking of all units is cut where the budget needs it, without a new search; the
    smaller of two networks from one trial is nested in the larger one. A search of a whole front evaluated candidates
    of all sizes: there it is the best one of them that holds the budget.

    Args:
        run_dir: results/<run>.
        model: As in `resume`.
        data: As in `resume`, for another trial or budget.
        trial: Number of a trial; default the winner, fine-tuned unless there is a budget.
        budget: One or several that must all hold, instead of the run's.
        to: Where the export goes; default best/ in the run, trial-N/, or a name made from the budget.
        trust: As in `resume`; nothing is called where the winner's files are copied.
        progress: Where to show the progress of a fine-tune; default nowhere.
        **settings: onnx, pt2, device; with a budget also epochs (default 0: batch-norm is re-estimated), lr, distill.

    Returns:
        Where the export is.

    Raises:
        InfeasibleBudget: If the smallest network exceeds the budget, or all that a front evaluated do.
        LedgerMismatch: If a network has to be made and the model or the data is not what the run was begun with.
        ValueError: If it is no run, or something else is where the export should go.
    """
    model, data, settings = by_name(model, data, settings)
    run = RunDirectory.open(run_dir)
    budgets = tuple(parse(text) for text in ((budget,) if isinstance(budget, str) else budget))
    changed = changed_run(run, "export", settings, () if budgets else TRAINING)
    target = as_path("to", to or (run.path / _name(trial, budgets) if budgets or trial is not None else run.best))
    check_target(target)
    check_end(changed.config)
    progress = progress or RunProgress(quiet=True)
    if budgets and run.config.budget_list:
        config = changed.config
        if len(budgets) > 1 or trial is not None:
            raise ValueError(f"run '{run.path}': give the one --budget of a level, and no --trial")
        if settings.keys() & REFERENCES and config.model:
            allow_named(changed, settings)
        named_model = ModelReference(config.model, config.model_args) if settings.keys() & REFERENCES else None
        told: dict[str, Any] = {"onnx": config.onnx, "pt2": config.pt2, "trust": trust}
        return export_level(run.best, target, budgets[0], model, run.example(), reference=named_model, **told)
    if budgets or trial is not None:
        allow(changed, trust, settings, model, data)
        told = {"budget": tuple(map(str, budgets)) or run.config.budget, "epochs": settings.get("epochs", 0)}
        changed = RunDirectory(run.path, change(changed.config, **told))
        chosen, prepared = run.trial(trial), _same(run, reopen(named(run, settings), "export", model, data))
        which = f"at {' and '.join(map(str, budgets))}" if budgets else f"of trial {chosen.number}"
        progress.say(f"run {run.path}: the network {which} is made")
        check_room(target, 2 * size_of(prepared.model))
        check_delivery(changed.config, prepared, trains=changed.config.epochs > 0)
        check_recovery(changed.config, prepared)
        if run.config.method:
            prepared = replace(find_units(run, prepared, progress), spare=0.0)
        if budgets:
            prepared = priced(prepared, budgets, progress.say)
            cut = partial(_elsewhere, run, prepared, chosen, trial is not None, progress.say)
            chosen, measured = cut_until_held(run, prepared, budgets, cut, progress.say)
            prepared = replace(prepared, problem=replace(prepared.problem, budgets=budgets))
        else:
            measured = known_or_measured(run, prepared, chosen, progress.say)
        deliver(changed, prepared, prepared.kept(chosen), chosen, target, progress, checkpoint=None, measured=measured)
        renew(run, progress.say)
        return target
    if not (run.best / "architecture.json").is_file():
        raise ValueError(f"run '{run.path}': has no winner yet; `autoprune resume {run.path}`, or choose a --trial")
    config = changed.config
    reference = (
        ModelReference(config.model, config.model_args) if settings.keys() & REFERENCES and config.model else None
    )
    is_built = bool(config.onnx or config.pt2)  # else files are copied
    if is_built and not (config.model or model or read_architecture(run.best)["model"].get("factory")):
        raise unnamed(changed, "export", ["model"])
    if reference:
        allow_named(changed, settings)
    if target.resolve() != run.best.resolve():
        keep_attached(target, progress.say)
    formats = {"onnx": config.onnx, "pt2": config.pt2}
    copy_export(run.best, target, model, run.example(), reference=reference, **formats, trust=trust)
    if config.onnx and (only := fixed_batch(target)):
        progress.say(only)
    renew(run, progress.say)
    return target


def _same(run: RunDirectory, prepared: Prepared) -> Prepared:
    """The problem, if it is that of the run's ledger (the versions of the libraries may be others by now)."""
    there = dict(run.record().fingerprint)
    prepared = replace(prepared, begun_with=there.get("versions"))
    check_same(there, prepared.fingerprint(), f"run '{run.path}'")
    return prepared


def _elsewhere(
    run: RunDirectory,
    prepared: Prepared,
    trial: Trial,
    is_asked: bool,
    say: Callable[[str], None],
    budgets: tuple[Budget, ...],
) -> Trial:
    """The trial at other budgets; its metrics are no longer its own. Of a front, unless it was asked for, another."""
    trials, config = run.record().trials, run.config
    if searches_front(config) and not is_asked:
        taken = evaluated(prepared.problem, trials, budgets, config.schedule.fidelities)
        say(why_this(prepared.problem, trials, budgets, taken, run.metric))
        return taken
    ranking, x = learnt_ranking(prepared.problem, config, trial, trials)
    return Trial(trial.number, rebudget(prepared.problem, budgets, ranking, x, trial.widths))


def _name(trial: int | None, budgets: tuple[Budget, ...]) -> str:
    """A directory's name: "trial-3", "macs-30%" -> "macs-30pct", "trial-3-macs-30pct-params-1.5M"."""
    texts = [] if trial is None else [f"trial-{trial}"]
    texts += [re.sub(r"[^A-Za-z0-9.]+", "-", str(b).replace("%", "pct")) for b in budgets]
    return "-".join(texts)
