"""Whether the running statistics of the dense network's batch-norm are those of the data it is given."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune import tasks
from autoprune.compute import Compute
from autoprune.config import replace as change
from autoprune.errors import CandidateFailed
from autoprune.printable import decimals
from autoprune.report.tables import counted
from autoprune.runs.prepare import Prepared
from autoprune.runs.recipe import Recipe

SAMPLES = 128  # of the one batch that is looked at, at most
FAR = 2.0  # a layer's deviation is off by this factor, or its mean by this part of the deviation:
SHIFT = 0.5  # then it is measured what that costs
GAIN = 0.1  # of the loss, that re-estimated statistics must be better by
SHOWN = 3  # layers


def stale_statistics(prepared: Prepared) -> str:
    """A warning, if batch-norm's statistics are of other data, or were never updated; else "".

    Every pruned network has its statistics re-estimated, the dense one is compared as it comes: with stale ones all
    that re-estimation repairs would look like a gain of pruning. One batch tells whether anything is suspicious; only
    then the validation samples are scored again, with re-estimated statistics.
    """
    found = deviations(prepared)
    wrong = {name: text for name, text in found.items() if text}
    if not wrong:
        return ""
    config = change(prepared.config, metric="loss")
    evaluate = Recipe(config, prepared.problem).evaluator(prepared.model, prepared.task)
    try:
        before, after = evaluate.evaluate_dense()["loss"], evaluate(prepared.space.full, "proxy")["loss"]
    except CandidateFailed:  # it is said where candidates are scored
        return ""
    if not after < before - GAIN * abs(before):
        return ""
    more = f" and {len(wrong) - SHOWN} more of {counted(len(found), 'layer')}" if len(wrong) > SHOWN else ""
    where, sample = ", ".join(f"{name} ({text})" for name, text in list(wrong.items())[:SHOWN]), prepared.task.sample
    return (
        f"warning: the running statistics of batch-norm do not fit these {sample}s: {where}{more}. The dense network "
        f"has loss {decimals(before)} as it comes, and {decimals(after)} once they are re-estimated on training "
        f"{sample}s, as those of every pruned network are: so much of what pruning gains over it is not pruning's. Are "
        "inputs prepared as in its training? If so, let training batches pass in train mode and save the weights again"
    )


def deviations(prepared: Prepared) -> dict[str, str]:
    """By the name of each batch-norm layer, how its statistics differ from those of one batch; "" if not by much."""
    norms = {
        name: module
        for name, module in prepared.model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }
    if not norms:
        return {}
    config = prepared.config
    compute = Compute.choose(config.device, config.amp)
    net, task = compute.lent(prepared.model), prepared.task.on(compute)
    count = min(SAMPLES, config.batch_size)
    batch = task.draw("calibration", count, config.seed).whole(count)
    seen: dict[str, str] = {}

    def look(name: str, module: Any, inputs: tuple[Any, ...]) -> None:
        if name not in seen and inputs and isinstance(inputs[0], Tensor) and inputs[0].dim() > 1:
            seen[name] = _deviation(module, inputs[0])

    hooks = [
        module.register_forward_pre_hook(partial(look, name)) for name, module in net.named_modules() if name in norms
    ]
    try:
        with torch.inference_mode(), compute.autocast():
            tasks.answered(task, net, batch, "calibration")
    finally:
        for hook in hooks:
            hook.remove()
        prepared.model.cpu()
    return seen


def _deviation(norm: _BatchNorm, x: Tensor) -> str:
    """How the mean and the deviation of its input [N, C, ...] differ from those it remembers; "" if not by much."""
    if norm.running_mean is None or norm.running_var is None:
        return ""
    axes = [axis for axis in range(x.dim()) if axis != 1]
    x = x.float()
    mean, variance = x.mean(axes), x.var(axes, correction=0) + norm.eps
    spread = norm.running_var.float() + norm.eps
    shift = float(((mean - norm.running_mean.float()) ** 2 / spread).mean().sqrt())
    factor = math.exp(0.5 * float((variance / spread).log().median()))
    if not max(factor, 1 / factor) < FAR:
        return f"its inputs spread {factor:.2g} times as wide as it remembers"
    return f"their mean is off by {shift:.2g} standard deviations" if not shift < SHIFT else ""
