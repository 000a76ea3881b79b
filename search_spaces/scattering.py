"""The way back: what a pruned network has learnt, written to where it stood in the dense one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.contents import copy_of
from search_spaces.space import SearchSpace
from search_spaces.surgery import prune


@torch.no_grad()
def scatter(pruned: nn.Module, dense: nn.Module, space: SearchSpace, kept: Sequence[Any]) -> tuple[str, ...]:
    """Write the tensors of a pruned network into the dense one, in place; what was cut away stays as it is.

    Where a number stood is found by pruning a copy that holds positions in place of weights. A tensor that surgery
    computes anew instead of cutting it cannot be written back; it stays as it is, too.

    Args:
        pruned: What `prune(dense, space, kept)` gave, trained since.
        dense: On the CPU.
        space: Of the dense network.
        kept: Per group the units that the pruned one has.

    Returns:
        Names of the tensors that could not be written back.
    """
    small, stood = _tensors(pruned), _tensors(prune(_numbered(dense), space, kept))
    left = []
    for name, tensor in _tensors(dense).items():
        if name not in small:
            continue  # of a branch that is gone
        if name not in stood or stood[name].shape != small[name].shape:
            left.append(name)
            continue
        value, flat = small[name].detach().to(tensor.device), tensor.detach().reshape(-1)
        if not tensor.is_floating_point():
            if value.shape == tensor.shape:
                tensor.copy_(value)
            continue
        places = stood[name].detach().reshape(-1)
        index = places.round().long()
        if (index != places).any() or ((index < 0) | (index >= flat.numel())).any():
            left.append(name)
            continue
        flat = flat.clone()
        flat[index] = value.reshape(-1).to(flat.dtype)
        tensor.copy_(flat.view(tensor.shape))
    return tuple(left)


def _tensors(net: nn.Module) -> dict[str, Tensor]:
    return {**dict(net.named_parameters(remove_duplicate=False)), **dict(net.named_buffers(remove_duplicate=False))}


def _numbered(dense: nn.Module) -> nn.Module:
    """A copy whose floating tensors hold 0, 1, 2 ... in double precision, which is exact up to 2^53."""
    net = copy_of(dense)
    for tensor in {id(t): t for t in _tensors(net).values() if t.is_floating_point()}.values():
        tensor.data = torch.arange(tensor.numel(), dtype=torch.float64).view(tensor.shape)
    return net
