"""Weights that are computed from parameters (W + B @ A, a spline's coefficients times its scale, a normalised weight).

What is made of parameters alone, element by element, by products of two or by statistics along an axis, still has
their axes. It is noted as a view of all of them (see parameters.py); a layer with it as its weight reads the same axis
of each and makes another. Any other use goes by the rules of what it was made with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from search_spaces.companions import line_of, varying
from search_spaces.contents import tensors_in
from search_spaces.operators import quietly
from search_spaces.preserving import is_plain
from search_spaces.recorder import Recorder
from search_spaces.rules import parameters, reductions
from search_spaces.rules.arithmetic import POINTWISE
from search_spaces.views import ParameterView, Place, Sum

aten = torch.ops.aten
LOOSE = {  # what makes new values of the shape of a parameter
    aten.zeros_like, aten.ones_like, aten.empty_like, aten.full_like, aten.rand_like, aten.randn_like, aten.bernoulli,
    aten.native_dropout,
}  # fmt: skip


def of_parameters(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Any) -> ParameterView | None:
    """What an operator makes, if it makes it of parameters alone and it still has their axes."""
    tensors = list(tensors_in((args, kwargs)))
    if not isinstance(out, Tensor) or not any(rec.view_of(t) is not None for t in tensors):
        return None
    if (axes := parameters.turned(rec, func, args, out)) is not None:
        view = rec.view_of(args[0])
        assert view is not None
        return like(view, out, axes, computed=view.computed)
    kind = func.overloadpacket
    if func._schema.is_mutable or any(out is t for t in tensors):
        return None
    if kind in (aten.mm, aten.bmm):
        return product(rec, out, *args)
    if kind in reductions.STATISTICS:
        return statistic(rec, func, args, kwargs, out)
    if kind is aten.constant_pad_nd:
        return padded(rec, args, out)
    if kind is aten.slice:
        return part(rec, args, out)
    if (torch.Tag.pointwise in func.tags or kind in POINTWISE) and kind not in LOOSE:
        return elementwise(rec, tensors, out)
    return None


@quietly
def written(rec: Recorder, func: Any, args: Any, kwargs: Any) -> None:
    """What an operator writes into is no view any more, nor is what shares its memory; parameters stay as they are."""
    arguments = func._schema.arguments
    given = dict(zip((a.name for a in arguments), args, strict=False)) | kwargs
    into = [given.get(a.name) for a in arguments if a.alias_info is not None and a.alias_info.is_write]
    places = {_memory(t) for t in tensors_in(into)} - {0}
    over = [view for view in rec.views.values() if _memory(view.tensor) in places]
    if over:
        own = {_memory(t) for _, t in rec.tensors}
        for view in over:
            if _memory(view.tensor) not in own:
                rec.ids(view.tensor)  # by the rule of a bare parameter


def _memory(tensor: Tensor) -> int:
    """Where its numbers are; 0 of what has no memory of its own (sparse ones)."""
    return tensor.untyped_storage()._cdata if is_plain(tensor) else 0


def like(view: ParameterView, out: Tensor, axes: parameters.Axes, *, computed: bool = True) -> ParameterView:
    """The same in another place."""
    return ParameterView(out, view.name, axes, view.resolve, view.shape, view.places, view.sums, computed)


def elementwise(rec: Recorder, tensors: Sequence[Tensor], out: Tensor) -> ParameterView | None:
    """W * mask, exp(W), W + B @ A, scale[:, None] * W ...: axis by axis, from behind."""
    found: list[ParameterView] = []
    places: list[list[Place]] = [[] for _ in out.shape]
    beside: list[tuple[int, Tensor]] = []  # channels that it meets, and on which axis
    for tensor in tensors:
        view = any_view(rec, tensor)
        if view is not None:
            found.append(view)
            continue
        ids = rec.ids(tensor)
        axes = varying(ids)
        if len(axes) > 1 or any(n > 1 for d, n in enumerate(tensor.shape) if d not in axes) or not rec.is_bare(ids):
            return None
        beside += [(d - tensor.dim(), line_of(ids, d)) for d in axes]
    if len(found) == 1 and not beside and found[0].tensor.shape == out.shape:
        return like(found[0], out, found[0].axes)
    for view in found:
        for d, group in zip(range(-len(view.axes), 0), view.axes, strict=True):
            if len(group) > 1:
                return None
            if group and group[0] >= 0:
                places[d] += [p for p in view.places[group[0]] if p not in places[d]]
    if not all(places[d] for d, _ in beside):
        return None
    for d, line in beside:
        for place in places[d]:
            rec.channels.unite(
                parameters.line_on(rec, place, len(line)), line, f"{rec.where} combines it with a constant"
            )
    return _of(found, out, places)


def _of(
    found: Sequence[ParameterView], out: Tensor, places: Sequence[Sequence[Place]], sums: tuple[Sum, ...] = ()
) -> ParameterView:
    """What is computed from these, of the shape of `out`."""
    axes = tuple((d,) if n > 1 else () for d, n in enumerate(out.shape))
    sums = tuple(dict.fromkeys((*(s for view in found for s in view.sums), *sums)))
    known = tuple(map(tuple, places))
    return ParameterView(out, found[0].name, axes, lambda: None, tuple(out.shape), known, sums, computed=True)


def any_view(rec: Recorder, tensor: Tensor) -> ParameterView | None:
    """A view; of a parameter or buffer with any axes, itself."""
    view = rec.view_of(tensor)
    if view is None and (name := rec.names.get(id(tensor))) is not None and tensor.dim():
        return ParameterView.of(name, tensor)
    return view


def product(rec: Recorder, out: Tensor, left: Tensor, right: Tensor) -> ParameterView | None:
    """B @ A: the outer axes are left."""
    found = [any_view(rec, t) for t in (left, right)]
    a, b = found
    if a is None or b is None or not (a.has_own_axes and b.has_own_axes):
        return None
    if any(a.axes[:-2]) or any(b.axes[:-2]) or not all((a.axes[-2], a.axes[-1], b.axes[-2], b.axes[-1])):
        return None
    rows, inner, again, columns = (
        v.places[v.axes[d][0]] for v, d in ((a, -2), (a, -1), (b, -2), (b, -1))
    )  # fmt: skip
    if not rows or not columns:
        return None
    made = Sum(rec.path[-1], left.shape[-1], (*inner, *again), (columns, rows))
    return _of([a, b], out, [*[()] * (out.dim() - 2), rows, columns], (made,))


def statistic(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Tensor) -> ParameterView | None:
    """A norm, mean ... along an axis: of what stays there."""
    x = args[0]
    view, dims = rec.view_of(x), set(reductions.axes_of(func, args, kwargs))
    if view is None or not reductions.numbers(func, args) or not out.is_floating_point():
        return None
    if not view.has_own_axes or out.dim() not in (0, x.dim(), x.dim() - len(dims)):
        return None
    for axis in sorted(dims):
        for d in view.axes[axis]:
            if places := view.places[d]:
                line = parameters.line_on(rec, places[0], view.shape[d])
                for name, at in places:
                    rec.register(name, at, line, "free")
                rec.contracts(line, back=x.dim() - 1 - axis)
    kept = [axis for axis in range(x.dim()) if axis not in dims]
    left = [view.places[view.axes[axis][0]] if view.axes[axis] else () for axis in kept]
    if out.dim() == x.dim():
        left = [left[kept.index(axis)] if axis in kept else () for axis in range(x.dim())]
    return _of([view], out, left)


def part(rec: Recorder, args: Any, out: Tensor) -> ParameterView | None:
    """W[:, 1:]: along the axis that is cut it stays."""
    x, axis = args[0], (args[1] if len(args) > 1 else 0) % args[0].dim()
    view = rec.view_of(x)
    if view is None:
        return None
    if out.shape == x.shape:
        return like(view, out, view.axes, computed=view.computed)
    parameters.keep_whole(rec, view, view.axes[axis], f"a part of '{view.name}' is taken in {rec.where}")
    size = (-out.shape[axis],) if out.shape[axis] > 1 else ()
    return like(view, out, (*view.axes[:axis], size, *view.axes[axis + 1 :]))


def padded(rec: Recorder, args: Any, out: Tensor) -> ParameterView | None:
    """F.pad of a kernel: what is padded has no channels."""
    x, amounts = args[0], args[1]
    view = rec.view_of(x)
    if view is None or not view.has_own_axes:
        return None
    wider = {x.dim() - 1 - i for i in range(len(amounts) // 2) if amounts[2 * i] or amounts[2 * i + 1]}
    if any(int(n) < 0 for n in amounts) or wider & {0, 1}:
        return None
    places = [() if d in wider or not group else view.places[group[0]] for d, group in enumerate(view.axes)]
    return _of([view], out, places)
