"""Layers that must not see channels last on a CPU.

oneDNN's gradient of the weight of a strided 1 x 1 convolution writes past its buffer where the tensors lie channels
last and there are fewer input channels than a vector holds (8 with AVX2; seen with torch 2.14.1): the process dies of
a corrupted heap, at once or later. Dense networks hardly have such layers, pruned residual networks do: shortcuts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

VECTOR = 16  # numbers of float32 in the widest vector of a CPU (AVX-512)


def guard(model: nn.Module) -> None:
    """Let such convolutions compute on the usual layout, until `unguard`; the others stay as they are."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and _is_in_danger(layer):
            layer.weight.data = _plain(layer.weight.data)
            if _plain_inputs not in layer._forward_pre_hooks.values():
                layer.register_forward_pre_hook(_plain_inputs)


def unguard(model: nn.Module) -> None:
    """Take away what `guard` has hung on its layers."""
    for layer in model.modules():
        for key in [key for key, hook in layer._forward_pre_hooks.items() if hook is _plain_inputs]:
            del layer._forward_pre_hooks[key]


def _is_in_danger(layer: nn.Conv2d) -> bool:
    return set(layer.kernel_size) == {1} and set(layer.stride) != {1} and layer.in_channels < VECTOR


def _plain_inputs(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (_plain(args[0]), *args[1:]) if args and isinstance(args[0], Tensor) else args


def _plain(values: Tensor) -> Tensor:
    """Laid out as usual, in its strides, too: those of one channel or one pixel would pass for both layouts."""
    return values.clone(memory_format=torch.contiguous_format)
