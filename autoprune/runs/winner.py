"""The winner's way out: prune, fine-tune, measure, export."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.compute import Compute
from autoprune.config import RunConfig
from autoprune.data import ImageData
from autoprune.evaluation import measure
from autoprune.export import export
from autoprune.problem import Trial
from autoprune.recovery import Reconstruction, finetune, reestimate_evenly
from autoprune.report import RunProgress
from autoprune.runs.directory import RunDirectory
from autoprune.runs.prepare import Prepared, versions
from search_spaces import Kept, prune

# Once per run, so more than the search can afford for each candidate: on ResNet-20 at half its MACs 4,000 instead of
# 500 gave 0.4 points after an epoch.
FIT_IMAGES = 4000


@dataclass(frozen=True, eq=False)
class Winner:
    """A delivered network.

    Attributes:
        model: Pruned and fine-tuned, in eval mode, on the CPU.
        costs: Per cost name, its "dense" and "pruned" value.
        metrics: "dense_val", "dense_test", "pruned_val", "pruned_test"; by metric what was measured for a budget on a
            latency (see `Bench.figures`).
    """

    model: nn.Module
    costs: dict[str, dict[str, float]]
    metrics: dict[str, dict[str, float]]


def deliver(
    run: RunDirectory,
    prepared: Prepared,
    trial: Trial,
    target: Path,
    progress: RunProgress,
    checkpoint: Path | None,
    measured: Mapping[str, dict[str, float]] | None = None,
) -> Winner:
    """Fine-tune one trial's network from the dense weights, compare it with the dense one, and export it.

    Args:
        run: Where, and with which settings.
        prepared: The problem.
        trial: Whose widths.
        target: Directory of the export.
        progress: Where to show progress.
        checkpoint: File that lets the fine-tune go on after a stop; None: none.
        measured: By metric, what was measured for a budget on a latency.
    """
    config, data, space = run.config, prepared.data, prepared.space
    kept = space.kept(trial.widths, prepared.problem.scores)
    model = prune(prepared.model, space, kept)
    batch = min(config.batch_size, len(data.train))
    steps = round(config.epochs * (len(data.train) // batch))
    started = time.monotonic()
    if config.reconstruct:
        _reconstruct(config, prepared, model, kept)
    if steps:
        progress.begin("fine-tuning", steps)
        finetune(
            model,
            data.without_test(),
            steps=steps,
            learning_rate=config.lr,
            batch=batch,
            distill_from=prepared.model if config.distill else None,
            distill_weight=config.distill,
            seed=config.seed,
            device=config.device,
            checkpoint_path=checkpoint,
            listener=lambda done, _, loss: progress.step(done, f"loss {loss:.4f}"),
        )
        progress.end()
        _settle(model, data, config)
    else:
        _reestimate(model, data, config)
    metrics = {
        f"{name}_{split}": measure(net, data, split, device=config.device)
        for split in ("val", "test")
        for name, net in (("dense", prepared.model), ("pruned", model))
        if len(getattr(data, split))
    } | dict(measured or {})
    prepared.model.cpu()
    model.cpu().to(memory_format=torch.contiguous_format)  # as `load` gives it back
    price = prepared.problem.feasibility.price
    dense, pruned = price(space.full), price(trial.widths)
    costs = {name: {"dense": dense[name], "pruned": pruned[name]} for name in dense}
    export(
        target,
        model,
        space=space,
        kept=kept,
        reference=prepared.reference,
        costs=costs,
        metrics=metrics,
        provenance=_provenance(run, prepared, trial, time.monotonic() - started),
        example_inputs=prepared.example,
        onnx=config.onnx,
        pt2=config.pt2,
    )
    return Winner(model.eval(), costs, metrics)


def _reconstruct(config: RunConfig, prepared: Prepared, model: nn.Module, kept: Kept) -> None:
    """Fit the layers of the pruned network to the dense one's outputs, as the evaluator does, on more images."""
    compute = Compute.choose(config.device)
    dense = compute.place(copy.deepcopy(prepared.model)).eval()
    fit = Reconstruction.on(dense, prepared.space, prepared.data, FIT_IMAGES, compute, config.seed)
    fit(compute.place(model).eval(), kept)


def _reestimate(model: nn.Module, data: ImageData, config: RunConfig) -> None:
    """Batch-norm statistics as the evaluator takes them."""
    compute = Compute.choose(config.device)
    images = data.train.sample(config.bn_images, config.seed).to(compute.device)
    reestimate_evenly(compute.place(model), data, images, config.batch_size, compute)


def _settle(model: nn.Module, data: ImageData, config: RunConfig) -> None:
    """Re-estimate batch-norm after a fine-tune, unless its own running averages validate better.

    They lag behind the weights: after six steps at momentum 0.1 half of what they hold belongs to the dense network.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    running = [copy.deepcopy(dict(m.named_buffers())) for m in norms]
    before = measure(model, data, "val", device=config.device)["loss"]
    _reestimate(model, data, config)
    if measure(model, data, "val", device=config.device)["loss"] > before:
        for norm, buffers in zip(norms, running, strict=True):
            for name, buffer in norm.named_buffers():
                buffer.copy_(buffers[name])


def _provenance(run: RunDirectory, prepared: Prepared, trial: Trial, seconds: float) -> dict[str, Any]:
    config = run.config
    return {
        "run": run.path.name,
        "trial": trial.number,
        "trial_loss": trial.loss if math.isfinite(trial.loss) else None,
        "fidelity": trial.fidelity,
        "budget": list(config.budget),
        "strategy": config.strategy,
        "criterion": config.criterion,
        "seed": config.seed,
        "data": {"spec": prepared.data.spec, "split": prepared.data.split, "fingerprint": prepared.data.fingerprint},
        "finetune": {
            "reconstruct": config.reconstruct,
            "epochs": config.epochs,
            "lr": config.lr,
            "distill": config.distill,
            "batch_size": config.batch_size,
        },
        "finetune_seconds": round(seconds, 1),
        "fingerprint": prepared.fingerprint(),
        "versions": versions(),
    }
