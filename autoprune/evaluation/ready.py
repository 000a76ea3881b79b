"""Samples that every candidate meets, made ready for the network once: normalised, in the precision of the passes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from autoprune.compute import Compute
from autoprune.tasks import Draw, mapped, num_samples
from autoprune.tasks.trees import inputs_of, is_pair, leaves, like, part_of

SHARE = 0.25  # of the room for activations that samples may take


def ready(draw: Draw, compute: Compute) -> Draw:
    """The same samples kept on the device as the network takes them; as they are, on a CPU or where they are large."""
    if not compute.room or len(draw) < 2:
        return draw
    each = sum(leaf[:1].numel() * leaf.element_size() for leaf in leaves(draw.whole(1)) if leaf.dim())
    if each * len(draw) > SHARE * compute.room:
        return draw
    whole = draw.whole(len(draw))
    same = num_samples(whole) == len(draw) and all(leaf.dim() and len(leaf) == len(draw) for leaf in leaves(whole))
    return Ready(_narrow(whole) if compute.amp else whole, draw) if same else draw


class Ready(Draw):
    """All samples as one batch, handed out in parts.

    Args:
        whole: The batch.
        draw: What it was made of.
    """

    def __init__(self, whole: Any, draw: Draw) -> None:
        self._whole, self._count = whole, len(draw)

    def __len__(self) -> int:
        return self._count

    def batches(self, size: int, parts: int = 1) -> Iterator[Any]:
        """See `Draw`."""
        size = max(1, size // parts)
        for start in range(0, len(self), size):
            yield part_of(self._whole, start, start + size)

    def whole(self, most: int) -> Any:
        """See `Draw`."""
        return part_of(self._whole, 0, most)


def _narrow(batch: Any) -> Any:
    """Inputs of a pair in bfloat16: the first layer would make them so under autocast, batch by batch."""
    if not is_pair(batch):
        return batch

    def narrow(leaf: Any) -> Any:
        return leaf.to(torch.bfloat16) if isinstance(leaf, Tensor) and leaf.dtype is torch.float32 else leaf

    return like(batch, [mapped(narrow, inputs_of(batch)), *batch[1:]])
