"""Batch-norm re-estimation: the running statistics of a pruned network, measured afresh.

Without it the scores of pruned networks are noise (Li et al. 2020, "EagleEye", https://arxiv.org/abs/2007.02491).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.compute import Compute
from autoprune.data import ImageData, Split


def reestimate(model: nn.Module, batches: Iterable[Tensor], forward: Callable[[Tensor], object] | None = None) -> None:
    """Replace the running statistics of every batch-norm by the plain average over `batches`.

    Only batch-norm runs in train mode, so dropout and its kin stay off; weights and modes are left as they were.

    Args:
        model: Changed in place.
        batches: Normalised images [N, C, H, W], not augmented. An average over few large batches is better than one
            over many small ones; a batch of one image has no statistics.
        forward: What runs a batch (default: the model itself), e.g. to time it.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    modes = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
        norm.momentum = None  # cumulative average instead of an exponential one
    try:
        with torch.inference_mode():
            for images in batches:
                (forward or model)(images)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes.items():
            module.training = mode


def reestimate_evenly(
    model: nn.Module,
    data: ImageData,
    images: Split,
    batch_size: int,
    compute: Compute,
    clock: AbstractContextManager[Any] | None = None,
) -> None:
    """`reestimate` over the images of a split, in even batches of about `batch_size`: each weighs the same.

    Args:
        model: On the device; changed in place.
        data: How its images are normalised.
        images: On the device.
        batch_size: About how many images per pass; the last pass has no single image left.
        compute: How passes are run.
        clock: Runs during passes only.
    """
    size = math.ceil(len(images) / max(1, round(len(images) / batch_size)))
    while size > 1 and len(images) % size == 1:  # one image may have no statistics
        size += 1

    def forward(batch: Tensor) -> object:
        with clock or nullcontext():
            return model(batch)

    with compute.autocast():
        batches = (data.normalise(b.images, compute.channels_last) for b in images.batches(size))
        reestimate(model, batches, forward)
