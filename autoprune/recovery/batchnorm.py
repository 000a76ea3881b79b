"""Batch-norm re-estimation: the running statistics of a pruned network, measured afresh.

Without it the scores of pruned networks are noise (Li et al. 2020, "EagleEye", https://arxiv.org/abs/2007.02491).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoprune.compute import Compute
from autoprune.tasks import Draw, Task, answered


def reestimate(model: nn.Module, batches: Iterable[Any], forward: Callable[[Any], object] | None = None) -> None:
    """Replace the running statistics of every batch-norm by the plain average over `batches`.

    Only batch-norm runs in train mode, so dropout and its kin stay off; weights and modes are left as they were.

    Args:
        model: Changed in place.
        batches: Of samples as they are, not augmented. An average over few large batches is better than one over many
            small ones; a batch of one sample has no statistics.
        forward: What runs a batch (default: the model itself), e.g. to time it.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_var is not None]
    if not norms:
        return
    modes = {module: module.training for module in model.modules()}
    momenta, count = [norm.momentum for norm in norms], 0
    counters = [norm.num_batches_tracked for norm in norms]
    variances: list[Tensor] = [norm.running_var for norm in norms]  # type: ignore[misc]
    means: list[Tensor] = [norm.running_mean for norm in norms]  # type: ignore[misc]
    model.eval()
    torch._foreach_zero_([*variances, *means])
    torch._foreach_add_(variances, 1.0)
    for norm in norms:
        norm.train()
        if type(norm).forward is _BatchNorm.forward:  # which counts by a kernel for each layer, for nobody
            norm.num_batches_tracked = None
    try:
        with torch.inference_mode():
            for count, batch in enumerate(batches, start=1):
                for norm in norms:
                    norm.momentum = 1.0 / count  # the plain average; None gives it too, but waits for the device
                (forward or model)(batch)
    finally:
        for norm, momentum, counter in zip(norms, momenta, counters, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counter
        for module, mode in modes.items():
            module.training = mode
        if counted := [counter for counter in counters if counter is not None]:
            torch._foreach_zero_(counted)
            torch._foreach_add_(counted, count)


def reestimate_evenly(
    model: nn.Module,
    task: Task,
    drawn: Draw,
    batch_size: int,
    compute: Compute,
    clock: AbstractContextManager[Any] | None = None,
    parts: int = 1,
) -> None:
    """`reestimate` over samples of a task, in even batches of about `batch_size`: each weighs the same.

    Args:
        model: On the device; changed in place.
        task: How it is called.
        drawn: The samples.
        batch_size: About how many per pass.
        compute: How passes are run.
        clock: Runs during passes only.
        parts: Each batch goes in so many.
    """

    def forward(batch: Any) -> object:
        with clock or nullcontext():
            return answered(task, model, batch, "calibration")

    with compute.autocast():
        reestimate(model, drawn.evenly(batch_size, parts), forward)
