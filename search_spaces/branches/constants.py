"""The constant per channel that a branch leaves when it is gone, as steps that follow from the weights.

A step is a tuple: what it does, and what with. `int`s in the place of a vector are numbers of earlier steps; tensors
are named. Each gives a vector [C] over the channels that stay:

    ("bias", weight, axis, bias or None)             what a layer answers that reads nothing
    ("layer", step, weight, axis, bias or None)      a convolution or linear layer whose axis `axis` makes the channels
    ("batch_norm", step, mean, variance, scale, shift, eps)
    ("group_norm", step, groups or 0, channels of each or 0, scale, shift, eps)
    ("mean", step), ("cat", steps)
    ("layer_norm", step, scale, shift, eps), ("rms_norm", step, scale, eps or None)
    ("pointwise", operator, arguments, (keyword, argument) pairs): ("step", n) is a vector, ("tensor", name) a tensor
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from search_spaces.graph import is_pointwise


def operator(name: str) -> Any:
    """The ATen operator "mul.Tensor".

    Raises:
        ValueError: If there is none that works on each element by itself.
    """
    packet, _, overload = name.partition(".")
    found = getattr(getattr(torch.ops.aten, packet, None), overload or "default", None)
    if found is None or not is_pointwise(found) or packet.endswith("_"):
        raise ValueError(f"'{name}' is no operator on single elements")
    return found


def constant(steps: Sequence[Any], tensor: Callable[[str], Tensor]) -> Tensor:
    """[C] what the steps come to; `tensor` gives the tensors of the candidate by name."""
    known: list[Tensor] = []
    for kind, *rest in steps:
        known.append(_STEPS[kind](known, tensor, *rest))
    return known[-1]


def _maybe(tensor: Callable[[str], Tensor], name: str | None) -> Tensor | None:
    return None if name is None else tensor(name)


def _bias(known: list[Tensor], tensor: Any, weight: str, axis: int, bias: str | None) -> Tensor:
    out: Tensor = tensor(bias).flatten().clone() if bias else tensor(weight).new_zeros(tensor(weight).shape[axis])
    return out


def _layer(known: list[Tensor], tensor: Any, x: int, weight: str, axis: int, bias: str | None) -> Tensor:
    table = tensor(weight).movedim(axis, 0).flatten(2).sum(-1) if tensor(weight).dim() > 2 else tensor(weight)
    given = known[x]
    depthwise = table.shape[1] == 1 and len(given) == len(table)
    out: Tensor = table[:, 0] * given if depthwise else table @ given
    return out if bias is None else out + tensor(bias)


def _batch_norm(
    known: list[Tensor], tensor: Any, x: int, mean: str, variance: str, scale: str | None, shift: str | None, eps: float
) -> Tensor:
    values = (tensor(mean), tensor(variance), _maybe(tensor, scale), _maybe(tensor, shift))
    return functional.batch_norm(known[x][None], *values, eps=eps)[0]


def _layer_norm(known: list[Tensor], tensor: Any, x: int, scale: str | None, shift: str | None, eps: float) -> Tensor:
    return functional.layer_norm(known[x], (len(known[x]),), _maybe(tensor, scale), _maybe(tensor, shift), eps)


def _rms_norm(known: list[Tensor], tensor: Any, x: int, scale: str | None, eps: float | None) -> Tensor:
    return functional.rms_norm(known[x], (len(known[x]),), _maybe(tensor, scale), eps)


def _group_norm(
    known: list[Tensor], tensor: Any, x: int, many: int, each: int, scale: str | None, shift: str | None, eps: float
) -> Tensor:
    values = known[x].view(many or -1, each or len(known[x]) // many)
    out = functional.layer_norm(values, values.shape[1:], eps=eps).flatten()
    if values.shape[1] == 1:  # exactly
        out = torch.zeros_like(out)
    out = out if scale is None else out * tensor(scale)
    return out if shift is None else out + tensor(shift)


def _mean(known: list[Tensor], tensor: Any, x: int) -> Tensor:
    return known[x].mean(0, keepdim=True)


def _cat(known: list[Tensor], tensor: Any, parts: Sequence[int]) -> Tensor:
    return torch.cat([known[x] for x in parts])


def _pointwise(
    known: list[Tensor], tensor: Any, name: str, args: Sequence[Any], kwargs: Sequence[tuple[str, Any]]
) -> Tensor:
    def given(value: Any) -> Any:
        if isinstance(value, tuple):
            return known[value[1]] if value[0] == "step" else tensor(value[1]).flatten()
        return value

    out: Tensor = operator(name)(*map(given, args), **{k: given(v) for k, v in kwargs})
    return out


_STEPS: dict[str, Callable[..., Tensor]] = {
    "bias": _bias, "layer": _layer, "batch_norm": _batch_norm, "layer_norm": _layer_norm, "rms_norm": _rms_norm,
    "group_norm": _group_norm, "mean": _mean, "cat": _cat, "pointwise": _pointwise,
}  # fmt: skip
