"""The winner's weights: reconstructed, fine-tuned, and those from before the fine-tune where it did harm."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.compute import Compute
from autoprune.config import RunConfig, metric_label
from autoprune.data import ImageData
from autoprune.evaluation import measure
from autoprune.recovery import Reconstruction, finetune, reestimate_evenly
from autoprune.report import RunProgress
from autoprune.report.pace import Stopwatch
from autoprune.report.tables import seconds
from autoprune.runs.prepare import Prepared
from autoprune.runs.telling import TRAINING, curve
from search_spaces import Kept

# Once per run, so more than the search can afford for each candidate: on ResNet-20 at half its MACs 4,000 instead of
# 500 gave 0.4 points after an epoch.
FIT_IMAGES = 4000


def recover(
    config: RunConfig, prepared: Prepared, model: nn.Module, kept: Kept, progress: RunProgress, checkpoint: Path | None
) -> tuple[nn.Module, dict[str, dict[str, Any]]]:
    """Give a pruned network its accuracy back.

    A fine-tune may do harm, where there is little data or the learning rate is too high for it: the network from before
    is delivered then, by what the run minimises on the validation images, and the user is told. A run that was killed
    in the middle comes to the same: what was before is made and measured again, from the same images.

    Args:
        config: How long, at which rate.
        prepared: The problem.
        model: As `prune` made it; changed in place.
        kept: Per group the kept units it was made with.
        progress: Where to show progress.
        checkpoint: File that lets the fine-tune go on after a stop; None: none.

    Returns:
        The network to deliver, and what was measured on the validation images "before_finetune_val" and
        "after_finetune_val": "loss", "top1", the metric of the run, each if it is a finite number, and "delivered":
        whether it is that one; "training": the fine-tune's curve (see `telling`), and how much of its loss is the
        teacher's ("distill"). Nothing if there is no fine-tune.

    Raises:
        Diverged: If the training loss becomes NaN or infinite.
    """
    data = prepared.data
    batch = min(config.batch_size, len(data.train))
    steps = round(config.epochs * (len(data.train) // batch))
    if config.reconstruct:
        _reconstruct(config, prepared, model, kept)
    if not steps:
        _reestimate(model, data, config)
        return model, {}
    untouched = copy.deepcopy(model)
    _reestimate(untouched, data, config)
    before = _validate(untouched, data, config)
    untouched.cpu()
    progress.begin("fine-tuning", steps)
    watch = Stopwatch(checkpoint)

    def told(done: int, total: int, loss: float) -> None:
        left_s = watch(done, total).left_s
        progress.step(done, f"loss {loss:.4f}", seconds(left_s) if left_s else "")

    log = finetune(
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
        listener=told,
    )
    progress.end()
    after = _settle(model, data, config)
    was, is_now = (_minimised(found, config) for found in (before, after))
    if harmed := _is_worse(is_now, was):
        progress.say(
            f"the fine-tune raised the validation {metric_label(config.metric)} from {was:.4g} to {is_now:.4g}: the "
            f"network from before it is delivered; a smaller --lr than {config.lr:g} may help"
        )
    return untouched if harmed else model, {
        "before_finetune_val": {**_finite(before), "delivered": harmed},
        "after_finetune_val": {**_finite(after), "delivered": not harmed},
        TRAINING: {**curve(log.losses), "distill": config.distill},
    }


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


def _settle(model: nn.Module, data: ImageData, config: RunConfig) -> dict[str, float]:
    """Re-estimate batch-norm after a fine-tune, unless its own running averages validate better.

    They lag behind the weights: after six steps at momentum 0.1 half of what they hold belongs to the dense network.

    Returns:
        What is measured on the validation images then.
    """
    lagging = _validate(model, data, config)
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return lagging
    running = [copy.deepcopy(dict(m.named_buffers())) for m in norms]
    _reestimate(model, data, config)
    settled = _validate(model, data, config)
    if not _is_worse(_minimised(settled, config), _minimised(lagging, config)):
        return settled
    for norm, buffers in zip(norms, running, strict=True):
        for name, buffer in norm.named_buffers():
            buffer.copy_(buffers[name])
    return lagging


def _validate(model: nn.Module, data: ImageData, config: RunConfig) -> dict[str, float]:
    return measure(model, data, "val", metric=config.metric, device=config.device)


def _minimised(found: Mapping[str, float], config: RunConfig) -> float:
    """The metric of the run, lower is better."""
    return 1 - found["top1"] if config.metric == "top1" else found[config.metric]


def _is_worse(found: float, before: float) -> bool:
    """Whether it is higher than it was, or no longer a number."""
    return not (found <= before or math.isnan(before))


def _finite(found: Mapping[str, float]) -> dict[str, float]:
    """Without what no JSON can say."""
    return {name: value for name, value in found.items() if math.isfinite(value)}
