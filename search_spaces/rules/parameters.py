"""Views of parameters (transposed, one of a stack, axes merged), so that a product with one is a layer.

A parameter with two axes of channels ([experts, in, out]) has no companion, which holds one id a place. What only
turns it about is therefore noted as a view, and looked at when it is used: a product reads one of its axes and makes
another; any other use goes by the rule of a bare parameter (see `Recorder.ids`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from search_spaces.companions import along, line_of, varying
from search_spaces.counts import ChannelCount, Size, plain
from search_spaces.recorder import Recorder
from search_spaces.views import ParameterView, Place

aten = torch.ops.aten
TURNS = {
    aten.t, aten.transpose, aten.permute, aten.unsqueeze, aten.select, aten.view, aten._unsafe_view, aten.reshape,
    aten.clone, aten.detach, aten.alias, aten.expand, aten.index, aten.index_select, aten.squeeze,
    aten.view_as_complex, aten.view_as_real,
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
    shape = view.shape
    axes = view.axes
    kind, dims = func.overloadpacket, x.dim()
    if kind in (aten.clone, aten.detach, aten.alias):
        return axes
    if kind is aten.view_as_real:
        return (*axes, (-2,))
    if kind is aten.view_as_complex:
        keep_whole(rec, view, axes[-1], f"'{view.name}' holds complex numbers in {rec.where}")
        return axes[:-1]
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
        keep_whole(rec, view, axes[place], f"one of several along '{view.name}' is chosen in {rec.where}")
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
    given = [(d, i) for d, i in enumerate(indices) if i is not None]
    if len(given) != 1:
        return None
    ((place, index),) = given
    if index.dtype in (torch.bool, torch.uint8) or any(d < 0 for d in view.axes[place]):
        return None
    keep_whole(rec, view, view.axes[place], f"one of several along '{view.name}' is chosen in {rec.where}")
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
    axis = _of_channels(rec, view, [d for d in outer if d >= 0])
    shape = view.shape
    reads = rec.mix(x, at).reshape([shape[d] for d in inner])
    axes = varying(rec.channels.canonical(reads))
    place = axes[0] if len(axes) == 1 else inner.index(_of_channels(rec, view, inner))
    if not (view.places[axis] and view.places[inner[place]]):  # halves of a parameter that are added, say
        return None
    rec.reached.update(view.names)
    line = line_of(reads, place)
    why = f"a product with '{view.name}' in {rec.where} reads it beside a constant"
    rec.channels.unite(along(line, place, reads.shape), reads, why)
    others = {d for group in view.axes for d in group if d >= 0} - {inner[place], axis}
    keep_whole(rec, view, others, f"a product in {rec.where} needs '{view.name}' whole along another axis")
    made, reads = made_by(rec, view, inner[place], axis, line), reads.reshape(-1)
    if view.computed:
        rec.contracts(reads)
    made = along(made, outer.index(axis), [shape[d] if d >= 0 else -d for d in outer]).reshape(-1)
    owner = view.name.rpartition(".")[0]
    rec.multiplies("linear", kernel=1, pixels=rows, reads=reads, makes=made, owner=owner)
    return made


def convolved_with(
    rec: Recorder, x: Tensor, view: ParameterView, out: Tensor, *, transposed: bool = False
) -> Tensor | None:
    """A convolution without groups whose weight is a view; the ids that it makes, or None where that cannot be said."""
    into, outof = (0, 1) if transposed else (1, 0)
    channel = x.dim() - len(view.axes) + 1
    groups = view.axes[into], view.axes[outof]
    if any(len(group) != 1 or group[0] < 0 for group in groups) or not set(rec.varying(x)) <= {channel}:
        return None
    (reads_on,), (makes_on,) = groups
    if not view.places[makes_on]:
        return None
    rec.reached.update(view.names)
    reads = rec.mix(x, channel)
    made = made_by(rec, view, reads_on, makes_on, reads)
    if view.computed:
        rec.contracts(reads, back=x.dim() - 1 - channel)
    spread = x if transposed else out
    pixels = math.prod(spread.shape[channel + 1 :]) * out.shape[:channel].numel() / rec.batch
    kernel = math.prod(view.tensor.shape[2:])
    kind, owner = "conv_transpose" if transposed else "conv", view.name.rpartition(".")[0]
    rec.multiplies(kind, kernel=kernel, pixels=pixels, reads=reads, makes=made, owner=owner)
    return made


def filtered_with(rec: Recorder, x: Tensor, view: ParameterView, out: Tensor, groups: Any) -> Tensor | None:
    """A depthwise convolution whose weight is a view; the ids that it passes, or None where that cannot be said."""
    channel, number = x.dim() - len(view.axes) + 1, plain(groups)
    if len(view.axes[0]) != 1 or view.axes[0][0] < 0 or view.axes[1] or not set(rec.varying(x)) <= {channel}:
        return None
    places = view.places[view.axes[0][0]]
    if not number == x.shape[channel] == out.shape[channel] or not places:
        return None
    ids, owner = rec.read(x, channel), view.name.rpartition(".")[0]
    why = f"the groups of '{owner}' count other channels"
    if isinstance(groups, ChannelCount):
        rec.promise(groups, ChannelCount.of(ids, rec), why)
    elif isinstance(groups, Size):
        rec.claim(groups.terms, ids, why)
    elif getattr(rec.modules.get(owner), "groups", None) != number:
        rec.freeze(ids, f"groups={number} is written in the code of {rec.where}")
    rec.reached.update(view.names)
    for name, axis in places:
        ids = rec.register(name, axis, ids, "out")
    keep_ranks(rec, view)
    rec.grouped[owner] = 1
    pixels = out.shape[channel + 1 :].numel() * out.shape[:channel].numel() / rec.batch
    kernel = math.prod(view.tensor.shape[2:])
    rec.multiplies("conv", kernel=kernel, pixels=pixels, reads=1, makes=ids, owner=owner)
    return ids


def made_by(rec: Recorder, view: ParameterView, into: int, outof: int, line: Tensor) -> Tensor:
    """The ids that a weight makes along one of its axes, of those that it reads along another.

    Of what is computed zeros may become something else; there the masked network leaves out what is not to be read.
    """
    for name, axis in view.places[into]:
        rec.register(name, axis, line, "free" if view.computed else "in")
    (name, axis), *more = view.places[outof]
    made = rec.makes(name, axis, view.shape[outof])
    for name, axis in more:
        rec.register(name, axis, made, "out")
    keep_ranks(rec, view)
    return made


def keep_ranks(rec: Recorder, view: ParameterView) -> None:
    """What products that it was computed with sum over stays; each is computed once in a pass."""
    for product in view.sums:
        for name, axis in product.inner:
            rec.keep_whole(name, axis, f"a weight is computed in {rec.where} from products of '{name}'")
        if not product.counted:
            product.counted = True
            reads, makes = (line_on(rec, places[0], rec.shapes[places[0][0]][places[0][1]]) for places in product.outer)
            pixels = product.number / rec.batch
            rec.multiplies("matmul", kernel=1, pixels=pixels, reads=reads, makes=makes, owner=product.module)


def line_on(rec: Recorder, place: Place, size: int) -> Tensor:
    """The ids on an axis of a parameter, which a later use tells of."""
    known = rec.axes.get(place)
    return known[1] if known else rec.asked(place, size)


def keep_whole(rec: Recorder, view: ParameterView, axes: Iterable[int], why: str) -> None:
    """These axes of what is viewed stay."""
    for d in axes:
        for name, axis in view.places[d] if d >= 0 else ():
            rec.keep_whole(name, axis, why)


def _of_channels(rec: Recorder, view: ParameterView, axes: Sequence[int]) -> int:
    """The one of these axes of a parameter on which channels lie: as is known, or the longest."""
    return max(axes, key=lambda d: (any(place in rec.axes for place in view.places[d]), view.shape[d]))
