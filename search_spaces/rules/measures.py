"""What code asks a tensor about itself: its shape, its strides, its bytes; a copy of it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from search_spaces.graph import MADE_BY
from search_spaces.recorder import ATTRIBUTE, Recorder


def shape_of(rec: Recorder, tensor: Tensor, dim: int | None = None) -> Any:
    """x.shape, x.size(), x.size(dim)."""
    rec.graph.measure(tensor)
    if id(tensor) not in rec.names and id(tensor) not in rec.views and not rec.varying(tensor):
        rec.staying.update((rec.path[-1], tensor.shape[d]) for d in {1, tensor.dim() - 1} if 0 < d < tensor.dim())
    if dim is not None:
        return rec.size(tensor, dim % max(tensor.dim(), 1)) if -tensor.dim() <= dim < tensor.dim() else tensor.size(dim)
    return torch.Size(rec.sizes(tensor))


def number_of_elements(rec: Recorder, tensor: Tensor) -> int:
    """x.numel()."""
    return math.prod(shape_of(rec, tensor))


def number_of_bytes(rec: Recorder, tensor: Tensor) -> int:
    """x.nbytes."""
    return number_of_elements(rec, tensor) * tensor.element_size()


def strides_of(rec: Recorder, tensor: Tensor, dim: int | None = None) -> Any:
    """x.stride(), x.stride(dim): the products of the sizes behind each axis, where they lie so in memory."""
    strides = list(tensor.stride())
    if tensor.is_contiguous():
        sizes = shape_of(rec, tensor)
        strides = [math.prod(sizes[d + 1 :]) if tensor.shape[d] > 1 else n for d, n in enumerate(strides)]
    else:
        rec.freeze_all(tensor, f"its strides are asked for in {rec.where}")
    return tuple(strides) if dim is None else strides[dim]


def memory_of(rec: Recorder, tensor: Tensor) -> Any:
    """x.untyped_storage(): what is done there is not seen."""
    rec.freeze_all(tensor, f"its memory is looked at in {rec.where}")
    return tensor.untyped_storage()


def copied(rec: Recorder, tensor: Tensor, memo: Any) -> Tensor:
    """copy.deepcopy(x): the copy has what the trace knows of `x`, and loses it with all the others."""
    rec.see(tensor)
    marks = {name: vars(tensor).pop(name) for name in (ATTRIBUTE, MADE_BY) if name in vars(tensor)}
    try:
        with rec.inside(opaque=True):
            out: Tensor = tensor.__deepcopy__(memo)
    finally:
        vars(tensor).update(marks)
    for name, value in marks.items():
        rec.graph.mark(out, name, value)
    return out


def number_of_axes(rec: Recorder, tensor: Tensor) -> int:
    """x.dim()."""
    return tensor.dim()


SHAPE: Any = torch.Tensor.shape  # properties of C, which mypy takes for what they give
BYTES: Any = torch.Tensor.nbytes
MEASURES: dict[Any, Any] = {
    SHAPE.__get__: shape_of,
    torch.Tensor.size: shape_of,
    torch.Tensor.numel: number_of_elements,
    torch.Tensor.nelement: number_of_elements,
    torch.numel: number_of_elements,
    BYTES.__get__: number_of_bytes,
    torch.Tensor.stride: strides_of,
    torch.Tensor.untyped_storage: memory_of,
    torch.Tensor.dim: number_of_axes,
    torch.Tensor.__deepcopy__: copied,
}
