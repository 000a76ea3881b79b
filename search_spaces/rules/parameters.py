"""Views of parameters (transposed, one of a stack, axes merged), so that a product with one is a layer.

A parameter with two axes of channels ([experts, in, out]) has no companion, which holds one id a place. What only
turns it about is therefore noted as a view, and looked at when it is used: a product reads one of its axes and makes
another; any other use goes by the rule of a bare parameter (see `Recorder.ids`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from search_spaces.companions import along, line_of, varying
from search_spaces.recorder import ParameterView, Recorder

aten = torch.ops.aten
TURNS = {
    aten.t, aten.transpose, aten.permute, aten.unsqueeze, aten.select, aten.view, aten._unsafe_view, aten.reshape,
    aten.clone, aten.detach, aten.alias, aten.expand, aten.index, aten.index_select,
}  # fmt: skip
Axes = tuple[tuple[int, ...], ...]


def turned(rec: Recorder, func: Any, args: Any, out: Any) -> Axes | None:
    """Of which axes of the parameter each axis of the result is made; None if that cannot be said."""
    if func.overloadpacket not in TURNS:
        return None
    x = args[0]
    view = rec.view_of(x)
    if view is None:
        return None
    shape = rec.shapes[view.name]
    axes = view.axes
    kind, dims = func.overloadpacket, x.dim()
    if kind in (aten.clone, aten.detach, aten.alias):
        return axes
    if kind is aten.t:
        return axes[::-1]
    if kind is aten.transpose:
        order = list(range(dims))
        a, b = args[1] % dims, args[2] % dims
        order[a], order[b] = order[b], order[a]
        return tuple(axes[d] for d in order)
    if kind is aten.permute:
        return tuple(axes[d % dims] for d in args[1])
    if kind is aten.unsqueeze:
        place = args[1] % (dims + 1)
        return (*axes[:place], (), *axes[place:])
    if kind is aten.select:
        place = args[1] % dims
        for axis in (d for d in axes[place] if d >= 0):
            rec.keep_whole(view.name, axis, f"one of several along '{view.name}' is chosen in {rec.where}")
        return (*axes[:place], *axes[place + 1 :])
    if kind in (aten.index, aten.index_select):
        return _chosen(rec, view, [None] * (args[1] % dims) + [args[2]] if kind is aten.index_select else args[1])
    if kind is aten.expand:  # an axis of 1 that is spread is written as its new size, negative
        old = [1] * (out.dim() - dims) + list(x.shape)
        known = [()] * (out.dim() - dims) + list(axes)
        return tuple(group if n == size else (-size,) for group, n, size in zip(known, old, out.shape, strict=True))
    return _regrouped([d for group in axes for d in group], shape, out.shape)


def _chosen(rec: Recorder, view: ParameterView, indices: Sequence[Tensor | None]) -> Axes | None:
    """What remains of the axes where a tensor says which of several are taken (the weights of experts, say)."""
    ((place, index), *more) = ((d, i) for d, i in enumerate(indices) if i is not None)
    if more or index.dtype in (torch.bool, torch.uint8) or any(d < 0 for d in view.axes[place]):
        return None
    for axis in view.axes[place]:
        rec.keep_whole(view.name, axis, f"one of several along '{view.name}' is chosen in {rec.where}")
    rec.freeze_all(index, f"it chooses what is taken in {rec.where}")
    places = tuple((-n,) if n > 1 else () for n in index.shape)
    return (*view.axes[:place], *places, *view.axes[place + 1 :])


def _regrouped(order: list[int], shape: Sequence[int], sizes: Sequence[int]) -> Axes | None:
    """Axes of a parameter in this order, merged or taken apart again so that they have these sizes."""
    found: list[tuple[int, ...]] = []

    def number(axes: Sequence[int]) -> int:
        return math.prod(shape[d] if d >= 0 else -d for d in axes)

    left = [d for d in order if number([d]) > 1]
    for size in sizes:
        taken: list[int] = []
        while left and number(taken) < size:
            taken.append(left.pop(0))
        if number(taken) != size:
            return None
        found.append(tuple(taken))
    return None if left else tuple(found)


def times_view(
    rec: Recorder, x: Tensor, view: ParameterView, inner: Sequence[int], outer: Sequence[int], rows: float, at: int = -1
) -> Tensor | None:
    """X @ a view of a parameter: a linear layer; the ids that it makes, or None where it is none.

    Args:
        rec: The recorder.
        x: Its input.
        view: Of the parameter.
        inner: Axes of the parameter that make up the one that is summed over.
        outer: Those that make up the other.
        rows: How often each weight is used, for each image.
        at: The axis of the input that is summed over.
    """
    if not inner or min(inner) < 0 or max(outer, default=-1) < 0 or not set(rec.varying(x)) <= {at % x.dim()}:
        return None
    shape = rec.shapes[view.name]
    rec.reached.add(view.name)
    reads = rec.read(x, at).reshape([shape[d] for d in inner])
    axes = varying(rec.channels.canonical(reads))
    place = axes[0] if len(axes) == 1 else inner.index(_of_channels(rec, view.name, inner))
    line = line_of(reads, place)
    why = f"a product with '{view.name}' in {rec.where} reads it beside a constant"
    rec.channels.unite(along(line, place, reads.shape), reads, why)
    rec.register(view.name, inner[place], line, "in")
    axis = _of_channels(rec, view.name, [d for d in outer if d >= 0])
    for other in {d for group in view.axes for d in group if d >= 0} - {inner[place], axis}:
        rec.keep_whole(view.name, other, f"a product in {rec.where} needs '{view.name}' whole along another axis")
    made = rec.makes(view.name, axis, shape[axis])
    made = along(made, outer.index(axis), [shape[d] if d >= 0 else -d for d in outer]).reshape(-1)
    owner = view.name.rpartition(".")[0]
    rec.multiplies("linear", kernel=1, pixels=rows, reads=reads.reshape(-1), makes=made, owner=owner)
    return made


def _of_channels(rec: Recorder, name: str, axes: Sequence[int]) -> int:
    """The one of these axes of a parameter on which channels lie: as is known, or the longest."""
    return max(axes, key=lambda d: ((name, d) in rec.axes, rec.shapes[name][d]))
