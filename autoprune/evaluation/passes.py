"""Forward passes over a split, and what they say."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.compute import Compute
from autoprune.criteria.gradients import logits
from autoprune.data import ImageData, Split
from objectives import quality


def answers(
    model: nn.Module,
    data: ImageData,
    split: Split,
    compute: Compute,
    batch_size: int,
    clock: AbstractContextManager[Any] | None = None,
    stop: Callable[[Tensor, Tensor], bool] | None = None,
) -> Tensor:
    """[N, K] float32 logits of the images of `split`, in order (fewer where `stop` says so).

    Args:
        model: In eval mode, on the device.
        data: How its images are normalised.
        split: On the device.
        compute: How passes are run.
        batch_size: Images per pass.
        clock: Runs during passes only.
        stop: Sees logits and labels of each batch; True ends it there.
    """
    found = []
    with torch.inference_mode(), compute.autocast():  # one context: every weight is cast once, not once per batch
        for part in split.batches(batch_size):
            images = data.normalise(part.images, compute.channels_last)
            with clock or nullcontext():
                found.append(logits(model(images)).float())
            if stop is not None and stop(found[-1], part.labels):
                break
    return torch.cat(found)


def measure(
    model: nn.Module,
    data: ImageData,
    split: str = "test",
    *,
    metric: str = "loss",
    batch_size: int = 256,
    device: str = "auto",
    amp: str | bool = "auto",
) -> dict[str, float]:
    """Loss and top-1 of a network on one split of the data, as they are reported in the end.

    Args:
        model: Moved to the device and left there, in eval mode.
        data: The data set.
        split: "val" or "test".
        metric: Measured as well, under its own name, if it is not "loss" or "top1".
        batch_size: Images per pass.
        device: "auto", "cpu", "cuda", ...
        amp: bfloat16 autocast: "auto" (where it is fast), "on" or "off".

    Returns:
        "loss" (mean cross-entropy), "top1" (fraction), and the metric.

    Raises:
        ValueError: If the split is unknown or empty.
    """
    return measure_by_class(model, data, split, metric=metric, batch_size=batch_size, device=device, amp=amp)[0]


def measure_by_class(
    model: nn.Module,
    data: ImageData,
    split: str = "test",
    *,
    metric: str = "loss",
    batch_size: int = 256,
    device: str = "auto",
    amp: str | bool = "auto",
) -> tuple[dict[str, float], list[int]]:
    """As `measure`, and how many images of each class were classified correctly."""
    if split not in ("train", "val", "test") or not len(part := getattr(data, split)):
        raise ValueError(f"data '{data.spec}': no {split} images to measure on; known splits: train, val, test")
    compute = Compute.choose(device, amp)
    part = part.to(compute.device)
    out = answers(compute.place(model).eval(), data, part, compute, batch_size)
    names = dict.fromkeys(("loss", "top1", metric))
    right = part.labels[quality.top1(out, part.labels) > 0]
    counts = torch.bincount(right, minlength=data.num_classes).tolist()
    return {name: quality.measure(name, out, part.labels) for name in names}, counts
