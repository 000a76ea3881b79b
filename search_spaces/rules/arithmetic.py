"""Element-wise operators and pooling on companions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from search_spaces.companions import along, constant, line_of, squeeze, tidy, varying
from search_spaces.contents import tensors_in
from search_spaces.recorder import Recorder, name_of
from search_spaces.rules.parameters import keep_ranks
from search_spaces.rules.reductions import level
from search_spaces.views import ParameterView

aten = torch.ops.aten

POINTWISE = {  # those that lack torch.Tag.pointwise
    aten.hardswish, aten.hardswish_, aten.clone, aten._to_copy, aten.detach, aten.alias, aten.lift_fresh,
    aten.lift_fresh_copy, aten.zeros_like, aten.ones_like, aten.empty_like, aten.full_like, aten.rand_like,
    aten.randn_like, aten.bernoulli, aten.native_dropout, aten._prelu_kernel, aten.copy_, aten.zero_, aten.fill_,
    aten.masked_fill, aten.masked_fill_, aten.rrelu_with_noise, aten.rrelu_with_noise_, aten.nan_to_num,
    aten.contiguous, aten.log_sigmoid_forward, aten.bernoulli_, aten.hardtanh, aten.hardtanh_, aten.leaky_relu,
    aten.leaky_relu_, aten.elu, aten.elu_, aten.softplus, aten.mish, aten.mish_, aten.hardsigmoid,
    aten.hardsigmoid_, aten.threshold, aten.threshold_, aten.dropout, aten.celu, aten.celu_, aten._conj,
    aten._neg_view, aten.complex, aten.polar,
}  # fmt: skip
SPATIAL = {
    **dict.fromkeys([
        aten.max_pool1d, aten.avg_pool1d, aten.adaptive_avg_pool1d, aten.adaptive_max_pool1d,
        aten.upsample_nearest1d, aten.upsample_linear1d, aten.reflection_pad1d, aten.replication_pad1d,
        aten._upsample_nearest_exact1d
    ], 1),
    **dict.fromkeys([
        aten.max_pool2d_with_indices, aten.avg_pool2d, aten._adaptive_avg_pool2d, aten.adaptive_max_pool2d,
        aten.upsample_nearest2d, aten.upsample_bilinear2d, aten.upsample_bicubic2d, aten.reflection_pad2d,
        aten.replication_pad2d, aten._upsample_nearest_exact2d, aten._upsample_bilinear2d_aa, aten.max_pool2d,
        aten._upsample_bicubic2d_aa, aten.adaptive_avg_pool2d, aten.mkldnn_max_pool2d, aten.fractional_max_pool2d,
        aten.grid_sampler_2d, aten.cudnn_grid_sampler
    ], 2),
    **dict.fromkeys([
        aten.max_pool3d_with_indices, aten.avg_pool3d, aten._adaptive_avg_pool3d, aten.adaptive_max_pool3d,
        aten.upsample_nearest3d, aten.upsample_trilinear3d, aten.reflection_pad3d, aten.replication_pad3d,
        aten._upsample_nearest_exact3d, aten.grid_sampler_3d
    ], 3),
}  # fmt: skip

UNPOOLING = {aten.max_unpool2d: 2, aten.max_unpool3d: 3}


def pointwise(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Ids at the same position are united; a map that does not vary where the others do is frozen, not united."""
    operands = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]
    outputs = list(tensors_in(out))
    if not operands or not outputs:
        return
    result = combine(rec, operands, outputs[0].shape)
    for tensor in outputs:
        if tensor.shape == result.shape:
            rec.set(tensor, result)


def combine(rec: Recorder, operands: Sequence[Tensor], shape: torch.Size) -> Tensor:
    """The companion of a broadcast operation on `operands`, whose result has `shape`."""
    sides: list[Side] = []
    maps: list[Side] = []
    parameters: list[tuple[str, Tensor]] = []
    views: list[ParameterView] = []
    for operand in operands:
        if (name := rec.names.get(id(operand))) is not None:
            parameters.append((name, operand))
        elif (view := rec.views.get(id(operand))) is not None and view.computed:
            if any(view.axes):
                views.append(view)
            else:
                maps.append((operand, constant(shape)))
        else:
            ids = rec.ids(operand)
            if len(varying(ids)) > 1:  # whole heads, say, that look apart
                ids = tidy(rec.channels.canonical(ids))
            if ids.shape != shape:
                ids = ids.expand(shape)
            (sides if varying(ids) else maps).append((operand, ids))
    if views and (len(sides) != 1 or not all(meets(rec, view, sides[0][1]) for view in views)):
        for view in views:
            ids = rec.ids(view.tensor).expand(shape)
            (sides if varying(ids) else maps).append((view.tensor, ids))
    channels: Tensor | None = None
    if sides:
        (_, channels), *others = on_one_axis(rec, sides, maps)
        for _, ids in others:
            channels = unite(rec, channels, ids)
    for name, parameter in parameters:
        if channels is not None:
            adopt(rec, name, parameter, channels)
        else:  # nothing to meet: its own channels, where it has them
            ids = rec.ids(parameter).expand(shape)
            channels = ids if varying(ids) else None
    if channels is None:
        return one_of(rec, [ids for _, ids in maps], shape)
    for operand, ids in maps:
        meet_map(rec, channels, operand, ids)
    return channels


Side = tuple[Tensor, Tensor]  # an operand, and its companion spread over the result


def on_one_axis(rec: Recorder, sides: list[Side], maps: list[Side]) -> list[Side]:
    """The operands whose channels lie on the same axis; tables and masks with others become `maps`.

    Of two layers' channels on different axes (an outer product) the fewer stay, and the others see a constant.
    """
    if len(sides) == 1 or len({tuple(varying(ids)) for _, ids in sides}) == 1:
        return sides
    why = f"{rec.where} combines channels of two axes"
    kept: list[Side] = []
    axes: set[int] = set()
    made = [rec.made_with(ids) for _, ids in sides]
    order = sorted(range(len(sides)), key=lambda n: -made[n])
    for side, alone in ((sides[n], not made[n]) for n in order):
        if not kept or axes & set(varying(side[1])):
            kept.append(side)
            axes = axes or set(varying(side[1]))
        else:
            (rec.misread if alone else rec.freeze)(side[1], why)
            maps.append(side)
    return kept


def unite(rec: Recorder, first: Tensor, second: Tensor) -> Tensor:
    """Two companions that vary along the same axis; returns that of the result."""
    a, b = squeeze(first), squeeze(second)
    common = np.broadcast_shapes(a.shape, b.shape)  # torch.broadcast_shapes imports SymPy
    rec.channels.unite(a.expand(common), b.expand(common), f"{rec.where} combines it with a constant of fixed size")
    return first if len(varying(a)) <= len(varying(b)) else second  # they are one now: the simpler one says it all


def one_of(rec: Recorder, maps: list[Tensor], shape: torch.Size) -> Tensor:
    """Only maps of at most one channel: they are one and the same from here on."""
    alive = [ids for ids in maps if bool(squeeze(ids).reshape(-1)[:1].ne(0).any())]  # some tensors are empty
    for ids in alive[1:]:
        rec.channels.unite(squeeze(alive[0]).reshape(-1)[:1], squeeze(ids).reshape(-1)[:1], "")
    return alive[0] if alive else constant(shape)


def meet_map(rec: Recorder, channels: Tensor, operand: Tensor, ids: Tensor) -> None:
    """Channels meet a map: a constant of their size freezes them, a one-channel gate is frozen itself."""
    single = squeeze(ids).reshape(-1)[:1]
    if bool(single.ne(0).any()):
        rec.freeze(single, f"it scales or shifts other channels in {rec.where}")
    behind = operand.dim() - channels.dim()
    if any(d + behind >= 0 and operand.shape[d + behind] > 1 for d in varying(channels)):
        rec.freeze(channels, f"{rec.where} combines it with a constant of fixed size")


def adopt(rec: Recorder, name: str, parameter: Tensor, found: Tensor) -> None:
    """A bare parameter (layer scale, position embedding) gets the ids of the channels it meets."""
    axes = varying(found)
    shape = found.shape
    for d in axes:
        axis = d - len(shape) + parameter.dim()
        if axis < 0 or parameter.shape[axis] == 1:
            continue
        if len(axes) > 1:
            rec.freeze(found, f"parameter '{name}' meets channels of several axes")
            continue
        rec.reached.add(name)
        rec.register(name, axis, line_of(found, d), "free")


def meets(rec: Recorder, view: ParameterView, channels: Tensor) -> bool:
    """What is computed from parameters meets channels on one of its axes, which are then theirs; else False."""
    axes = varying(channels)
    if len(axes) != 1:
        return False
    d = axes[0] - channels.dim() + len(view.axes)
    group = view.axes[d] if d >= 0 else ()
    if len(group) != 1 or group[0] < 0:
        return False
    rec.reached.update(view.names)
    for name, axis in view.places[group[0]]:
        rec.register(name, axis, line_of(channels, axes[0]), "free")
    keep_ranks(rec, view)
    return bool(view.places[group[0]])


def spatial(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Pooling and resampling: the ids spread over the new spatial size."""
    spread(rec, args[0], rec.ids(args[0]), SPATIAL[func.overloadpacket], out, name_of(func))


def spread(rec: Recorder, x: Tensor, ids: Tensor, dims: int, out: Any, name: str) -> None:
    """The companion `ids` of `x` at another size along its last `dims` axes, which an operation mixes."""
    level_ids = level(rec, ids, range(x.dim() - dims, x.dim()), f"{name} over the channels in {rec.where}")
    if level_ids is None:
        return
    head = squeeze(level_ids)
    for d in range(-dims, 0):
        head = head.narrow(d, 0, 1)
    for tensor in tensors_in(out):
        rec.set(tensor, head.expand(*x.shape[: x.dim() - dims], *tensor.shape[-dims:]))


def unpooled(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """Max-unpooling: each channel is put where one of another tensor had its maxima, so that the two go together."""
    x, indices = args[:2]
    spread(rec, x, combine(rec, [x, indices], x.shape), UNPOOLING[func.overloadpacket], out, name_of(func))


def boxes(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Pooling of regions, [N, C, H, W] -> [boxes, C, h, w]."""
    x = args[0]
    ids = level(rec, rec.ids(x), {0, 2, 3}, f"{name_of(func)} over the channels in {rec.where}")
    rec.freeze_all(args[1:], f"it says where {name_of(func)} looks in {rec.where}")
    if ids is not None:
        rec.set(next(tensors_in(out)), along(line_of(ids, 1), 1, next(tensors_in(out)).shape))


def rescales(rec: Recorder, func: Any, args: Any) -> bool:
    """weight.mul_(2), weight.div_(2): a parameter is what it was, times a number; nothing is done with its channels."""
    if func.overloadpacket not in (aten.mul_, aten.div_) or id(args[0]) not in rec.names:
        return False
    return next(tensors_in(args[1:]), None) is None


def passes(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """Dropout of whole channels and its like: each channel by itself, whatever noise is drawn inside."""
    with rec.inside(opaque=True):
        out = func(*args, **kwargs)
    x = args[0] if args else kwargs["input"]
    if out is not x:
        rec.set(out, rec.ids(x))
    return out


def fresh(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """x.new_zeros(...): nothing of `x` goes into it."""


FUNCTIONS: dict[Any, Any] = dict.fromkeys(
    [
        functional.dropout1d, functional.dropout2d, functional.dropout3d, functional.alpha_dropout,
        functional.feature_alpha_dropout, torch.feature_dropout, torch.alpha_dropout, torch.feature_alpha_dropout,
    ],
    passes,
)  # fmt: skip
EXTERNAL: dict[str, Any] = dict.fromkeys(["torchvision::roi_align", "torchvision::roi_pool"], boxes)
OPERATORS: dict[Any, Any] = {
    **dict.fromkeys(POINTWISE, pointwise),
    **dict.fromkeys([aten.new_zeros, aten.new_ones, aten.new_empty, aten.new_full, aten.new_empty_strided], fresh),
    **dict.fromkeys(SPATIAL, spatial),
    **dict.fromkeys(UNPOOLING, unpooled),
}
