"""Modules that declare how they shrink, for layers whose channel arithmetic cannot be read off a forward pass."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional


@runtime_checkable
class Shrinkable(Protocol):
    """A module with its own input and output channels (axis 1) that knows how to lose any of them.

    The tracer treats it as one layer: it reads `in_channels` channels of its only input and makes `out_channels` new
    ones. Zeroing an input channel must be the same as removing it. What it costs is found by shrinking copies of it,
    and running them (see declaring.py).
    """

    in_channels: int
    out_channels: int

    def shrink(self, kept_in: NDArray[np.int64], kept_out: NDArray[np.int64]) -> None:
        """Keep these channels of the *dense* module only, in this order (called again for every candidate).

        What it makes of the indices goes into buffers, which are then moved to the network's device.
        """
        ...


def is_shrinkable(module: nn.Module) -> bool:
    """Is it one? A protocol asks for every attribute, each time; most modules lack the method."""
    return hasattr(type(module), "shrink") and isinstance(module, Shrinkable)


KEPT = "kept_channels"  # of a module that has shrunk: what it keeps of the dense one, on either side


def kept_channels(module: Shrinkable) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The channels of the dense module that it reads and makes now."""
    kept: tuple[NDArray[np.int64], NDArray[np.int64]] | None = getattr(module, KEPT, None)
    return kept or (np.arange(module.in_channels), np.arange(module.out_channels))


class PaddedShortcut(nn.Module):
    """Option-A shortcut: every second pixel, zero channels on both sides (He et al. 2016, arxiv.org/abs/1512.03385).

    It declares how it shrinks, so a residual stream that passes through it is fully prunable: a zero-padded channel is
    just an output that no input feeds. Once channels are gone on either side, the kept ones no longer sit in one
    block, and the module picks them by index from the input with one zero channel appended.

    Args:
        in_channels: Channels before.
        out_channels: Channels after; half of the new ones on each side.
        stride: Spatial step.
    """

    source: Tensor

    def __init__(self, in_channels: int, out_channels: int, stride: int = 2) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.stride = in_channels, out_channels, stride
        self.pad_left = (out_channels - in_channels) // 2
        # Input channel of each output channel; None while the module is dense and plain padding does it.
        self.register_buffer("source", None, persistent=False)

    def shrink(self, kept_in: NDArray[np.int64], kept_out: NDArray[np.int64]) -> None:
        """See `Shrinkable.shrink`."""
        if np.array_equal(kept_in, range(self.in_channels)) and np.array_equal(kept_out, range(self.out_channels)):
            self.source = None  # type: ignore[assignment]
            return
        new_index = np.full(self.out_channels, len(kept_in))  # by default: the appended zero channel
        new_index[self.pad_left + kept_in] = np.arange(len(kept_in))
        self.source = torch.from_numpy(new_index[kept_out])

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, H, W] -> [N, out, ceil(H / stride), ceil(W / stride)]."""
        x = x[:, :, :: self.stride, :: self.stride]
        if self.source is None:
            right = self.out_channels - self.in_channels - self.pad_left
            return functional.pad(x, (0, 0, 0, 0, self.pad_left, right))
        return functional.pad(x, (0, 0, 0, 0, 0, 1)).index_select(1, self.source)
