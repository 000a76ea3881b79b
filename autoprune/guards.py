"""Layers that a CPU must not compute as it does the others: channels last, or in bfloat16.

oneDNN's gradient of the weight of a strided 1 x 1 convolution writes past its buffer where the tensors lie channels
last and there are fewer input channels than a vector holds (8 with AVX2; seen with torch 2.14.1): the process dies of
a corrupted heap, at once or later. Dense networks hardly have such layers, pruned residual networks do: shortcuts.

It has no kernels in bfloat16 for the gradients of depthwise convolutions with a stride, a dilation or more than 3 x 3
taps, and what stands in for them is slow: a strided one takes 14 times as long as in float32, forwards and backwards,
and such layers were two fifths of a training step of a MobileNetV2 (results/benchmarks/depthwise.md).
"""

from __future__ import annotations

from threading import local
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

VECTOR = 16  # numbers of float32 in the widest vector of a CPU (AVX-512)
TAPS = 3  # of a kernel, in each direction, for which there are gradients in bfloat16
_suspended = local()  # whether autocast is, for the layer that this thread computes


def guard(model: nn.Module, channels_last: bool, amp: bool) -> None:
    """Let such convolutions compute on the usual layout, or in float32 where they learn, until `unguard`.

    Args:
        model: On a CPU. The other layers stay as they are.
        channels_last: Whether it is laid out so.
        amp: Whether its passes run under bfloat16 autocast.
    """
    for layer in model.modules():
        if channels_last and isinstance(layer, nn.Conv2d) and _is_in_danger(layer):
            layer.weight.data = _plain(layer.weight.data)
            if _plain_inputs not in layer._forward_pre_hooks.values():
                layer.register_forward_pre_hook(_plain_inputs)
        if amp and isinstance(layer, _ConvNd) and _is_slow(layer) and _suspend not in layer._forward_pre_hooks.values():
            layer.register_forward_pre_hook(_suspend)
            layer.register_forward_hook(_resume, always_call=True)


def unguard(model: nn.Module) -> None:
    """Take away what `guard` has hung on its layers."""
    for layer in model.modules():
        hung: tuple[dict[int, Any], ...] = (layer._forward_pre_hooks, layer._forward_hooks)
        for hooks in hung:
            for key in [key for key, hook in hooks.items() if hook in (_plain_inputs, _suspend, _resume)]:
                del hooks[key]
                layer._forward_hooks_always_called.pop(key, None)


def _is_in_danger(layer: nn.Conv2d) -> bool:
    return set(layer.kernel_size) == {1} and set(layer.stride) != {1} and layer.in_channels < VECTOR


def _is_slow(layer: _ConvNd) -> bool:
    if layer.groups == 1 or layer.groups != layer.in_channels:
        return False
    plain = {*layer.stride, *layer.dilation} == {1} and max(layer.kernel_size) <= TAPS
    return layer.transposed or layer.out_channels != layer.in_channels or not plain


def _suspend(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    learns = torch.is_autocast_enabled("cpu") and torch.is_grad_enabled()
    # Not where the input comes by name, which a hook does not see, or the user has other weights.
    _suspended.now = learns and bool(args) and all(p.dtype == torch.float32 for p in layer.parameters())
    if not _suspended.now:
        return args
    torch.set_autocast_enabled("cpu", False)
    return tuple(a.float() if isinstance(a, Tensor) else a for a in args)


def _resume(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
    if not getattr(_suspended, "now", False):
        return output
    _suspended.now = False
    torch.set_autocast_enabled("cpu", True)
    return output.to(torch.get_autocast_dtype("cpu")) if isinstance(output, Tensor) else output


def _plain_inputs(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (_plain(args[0]), *args[1:]) if args and isinstance(args[0], Tensor) else args


def _plain(values: Tensor) -> Tensor:
    """Laid out as usual, in its strides, too: those of one channel or one pixel would pass for both layouts."""
    return values.clone(memory_format=torch.contiguous_format)
