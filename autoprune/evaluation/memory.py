"""What to do when memory runs out: try once more in batches half as large, then give the candidate up."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch

from autoprune.errors import CandidateFailed
from autoprune.failures import out_of_memory
from objectives.plugins import PluginError
from search_spaces import SearchSpace

SMALLEST = 4  # a batch of fewer samples is not halved: batch-norm needs two

MAPS = 6  # activations alive at once: what a layer reads and makes, what a shortcut holds, and copies of them


def activation_bytes(space: SearchSpace) -> float:
    """About what the activations of one sample take in a pass without gradients: a few of the largest, in float32."""
    return 4.0 * MAPS * max((layer.pixels * layer.makes.size for layer in space.layers), default=1)


def within_memory(
    score: Callable[[int], dict[str, Any]], batch_size: int, device: torch.device, what: str
) -> dict[str, Any]:
    """What `score` gives for a batch size, or for half of it if the first runs out of memory.

    Every call starts with the whole batch: what a candidate gets does not depend on those before it.

    Args:
        score: Batch size -> metrics.
        batch_size: The whole one.
        device: Its cache is emptied in between.
        what: Is evaluated, for the message.

    Returns:
        The metrics; with "halved_batch", the batch size, if it was halved.

    Raises:
        CandidateFailed: If half is too much, too.
    """
    for batch in (batch_size, batch_size // 2):
        try:
            metrics = score(batch)
        except (MemoryError, RuntimeError, PluginError) as error:
            if not out_of_memory(error):
                raise
            if batch < batch_size or batch < SMALLEST:
                tried = f"of {batch}" if batch == batch_size else f"of {batch_size} and of {batch}"
                raise CandidateFailed(f"out of memory on {device} {what} in batches {tried}; lower the batch "
                                      "size, or the number of workers that share the device") from error  # fmt: skip
        else:
            return metrics if batch == batch_size else {**metrics, "halved_batch": batch}
        free(device)
    raise AssertionError("unreachable")


def free(device: torch.device) -> None:
    """Let go of what ran out of memory: called where the error is gone, and with it the frames that hold tensors."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
