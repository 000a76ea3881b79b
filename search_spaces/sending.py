"""Numbers that the host has worked out, on their way to the network's device."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device; through pinned memory to CUDA, so that the host does not wait for its turn.

    A CUDA graph refuses it: it would read that memory again when others have it.
    """
    if device.type != "cuda" or tensor.device.type != "cpu" or torch.cuda.is_current_stream_capturing():
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
