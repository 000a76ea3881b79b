"""What is said of a run that trains with a method instead of searching: what it was told, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoprune.config import RunConfig
from autoprune.labels import Labels
from autoprune.report.tables import counted
from search_spaces import SearchSpace, Widths

METHOD_TRAINING = "method_training"  # the key of its curve among the metrics of an export


def plan(config: RunConfig) -> list[tuple[str, str]]:
    """What a training was told: the method, for how long it trains, what follows."""
    rows = [
        ("Method", config.method + _given(config.method_args)),
        ("Trained with it", f"{_epochs(config.epochs_with_method)}, {_rate(config)}"),
    ]
    if config.prune_when:
        rule = config.prune_when + _given(config.prune_when_args)
        rows.append(("Chooses", f"as soon as its choice has settled, by {rule}"))
    if config.is_nested:
        rows.append(("Smaller networks", ", ".join(config.smaller_budgets)))
    elif config.trainer:
        rows.append(("Fine-tune", f"by your trainer, {config.trainer}"))
    else:
        teacher = f", {100 * config.distill:.0f} % of the loss is distillation" if config.distill else ""
        rows.append(("Fine-tune", f"{_epochs(config.epochs)}, {_rate(config)}{teacher}" if config.epochs else "none"))
    return rows


def found(config: RunConfig, space: SearchSpace, widths: Widths, export: Mapping[str, Any] | None) -> str:
    """What a method removed and after how long, in a sentence without its full stop.

    Args:
        config: Of the run.
        space: What may be pruned.
        widths: What is left.
        export: The parsed architecture.json; None before there is one.
    """
    whole, left = sum(space.full), sum(widths)
    removed = f"{config.method} removed {whole - left} of {counted(whole, 'unit')} (channels, heads ...), {left} stay"
    if config.is_nested:
        several = f"{1 + len(config.smaller_budgets)} networks trained in one"
        removed = f"{several}, the largest of {left} of {counted(whole, 'unit')} (channels, heads ...)"
    metrics = export["metrics"] if export else {}
    if told := metrics.get(METHOD_TRAINING):
        removed += f", after {counted(told['step'][-1], 'step')}"
    took = export["provenance"].get("finetune", {}).get("method_epochs") if export else None
    if took and took < config.method_epochs:
        removed += f": its choice had settled after {took:g} of {_epochs(config.method_epochs)}"
    if tuned := metrics.get("training"):
        removed += f"; then {counted(tuned['step'][-1], 'step')} of fine-tune"
    return removed


def scores(export: Mapping[str, Any], labels: Labels) -> str:
    """The score of the delivered network beside that of the dense one, on the samples that count most."""
    score, metrics = labels.headline, export["metrics"]
    for split, where in (("test", "test"), ("val", "validation")):
        dense, pruned = (metrics.get(f"{which}_{split}", {}) for which in ("dense", "pruned"))
        if score.name in dense and score.name in pruned:
            of_dense = f"the dense network {score.shown(dense)}"
            return f"{score.label} {score.shown(pruned)} on the {where} {labels.samples}, {of_dense}"
    return ""


def _given(settings: Mapping[str, Any]) -> str:
    """Settings of a method, as far as somebody gave them."""
    return f" ({', '.join(f'{name}={value}' for name, value in settings.items())})" if settings else ""


def _epochs(number: float) -> str:
    return f"{number:g} epoch{'' if number == 1 else 's'}"


def _rate(config: RunConfig) -> str:
    return f"learning rate {config.lr:g} ({config.lr_schedule})"
