"""Scores a network on the validation images, or as many of them as it takes to see that it is hopeless."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.compute import Compute
from autoprune.data import ImageData
from autoprune.evaluation.abandonment import BLOCK, block_means, estimate, hopeless, whole_blocks
from autoprune.evaluation.passes import answers
from objectives import quality
from objectives.quality import Metric


def validate(
    net: nn.Module,
    data: ImageData,
    compute: Compute,
    batch_size: int,
    metric: tuple[str, Metric],
    incumbent: Sequence[float] | None = None,
    clock: AbstractContextManager[Any] | None = None,
) -> dict[str, Any]:
    """Score a network on `data.val`.

    Args:
        net: In eval mode, on the device.
        data: On the device.
        compute: How passes are run.
        batch_size: Images per pass.
        metric: Its name, and what it is.
        incumbent: "batch_losses" of the best candidate so far: one that is clearly worse is abandoned. Ignored if it
            does not belong to these images.
        clock: Runs during passes only.

    Returns:
        "loss", "top1", "batch_losses", "abandoned" and "images": see `Evaluator`.

    Raises:
        ValueError: If the metric gives neither one number nor one per image.
    """
    count = len(data.val)
    rival = list(incumbent) if incumbent is not None and len(incumbent) == math.ceil(count / BLOCK) else []
    values: list[Tensor] = []

    def stop(out: Tensor, labels: Tensor) -> bool:
        values.append(fitness(metric, out, labels))
        return sum(map(len, values)) < count and hopeless(whole_blocks(torch.cat(values)), rival)

    out = answers(net, data, data.val, compute, batch_size, clock, stop if rival else None)
    labels = data.val.labels[: len(out)]
    found = fitness(metric, out, labels)
    abandoned = len(out) < count
    return {
        "loss": estimate(whole_blocks(found), rival, count) if abandoned else float(found.double().mean()),
        "top1": quality.measure("top1", out, labels),
        "batch_losses": block_means(found) if found.shape == labels.shape else [],
        "abandoned": abandoned,
        "images": len(out),
    }


def fitness(metric: tuple[str, Metric], out: Tensor, labels: Tensor) -> Tensor:
    """The metric, lower is better: per image [N], or one number.

    Raises:
        ValueError: If it is neither.
    """
    name, function = metric
    value = quality.apply(name, function, out, labels).float()
    return 1 - value if name == "top1" else value
