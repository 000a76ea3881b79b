"""A network on one split of a task, as it is reported in the end."""

from __future__ import annotations

import torch
from torch import nn

from autoprune.compute import Compute
from autoprune.data import ImageData
from autoprune.evaluation.abandonment import Losses
from autoprune.tasks import Task, as_task, evaluated, goal_of, num_samples, resolve_metric


def measure(
    model: nn.Module,
    task: Task | ImageData,
    split: str = "test",
    *,
    metric: str = "loss",
    batch_size: int = 256,
    device: str = "auto",
    amp: str | bool = "auto",
) -> dict[str, float]:
    """Loss and scores of a network on one split, as they are reported in the end.

    Args:
        model: Moved to the device and left there, in eval mode.
        task: What it is for.
        split: "val" or "test".
        metric: Measured as well, under its own name, if it is neither the loss nor a score of the task.
        batch_size: Samples per pass.
        device: "auto", "cpu", "cuda", ...
        amp: bfloat16 autocast: "auto" (where it is fast), "on" or "off".

    Returns:
        "loss" (mean), the scores of the task, and the metric.

    Raises:
        ValueError: If the split is unknown or empty.
    """
    return measure_by_class(model, task, split, metric=metric, batch_size=batch_size, device=device, amp=amp)[0]


def measure_by_class(
    model: nn.Module,
    task: Task | ImageData,
    split: str = "test",
    *,
    metric: str = "loss",
    batch_size: int = 256,
    device: str = "auto",
    amp: str | bool = "auto",
) -> tuple[dict[str, float], list[int]]:
    """As `measure`, and how many samples of each class were answered correctly; none where a task knows no classes."""
    task = as_task(task)
    if split not in ("train", "val", "test") or not task.has(split):
        raise ValueError(f"data '{task.spec}': no {split} {task.sample}s to measure on; known splits: train, val, test")
    compute = Compute.choose(device, amp)
    task = task.on(compute)
    goal_of(metric, task)
    own = resolve_metric(metric, task)
    meter, losses = task.meter({} if own is None else {metric: own}), Losses()
    right = task.right()
    with compute.placed(model) as net, torch.inference_mode(), compute.autocast():
        net.eval()
        for batch in task.once(split, batch_size):
            outputs, loss = evaluated(task, net, batch, split)
            losses.add(loss, num_samples(batch))
            meter.update(outputs, batch)
            if right is not None:
                right.update(outputs, batch)
        return {"loss": losses.mean(), **meter.compute()}, [] if right is None else right.compute()
