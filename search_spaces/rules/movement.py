"""Movement: view, permute, cat, split, slice, pad ... repeat the ATen operator on the companion."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from search_spaces.channels import distinct
from search_spaces.companions import along, folded, line_of, squeeze, tidy, varying
from search_spaces.contents import tensors_in
from search_spaces.recorder import Recorder

aten = torch.ops.aten


def replay(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Apply the operator to the companion."""
    x = args[0]
    ids = rec.ids(x)
    if func.overloadpacket in (aten.view, aten._unsafe_view, aten.reshape):
        moved: Any = folded(ids, out.shape)
    else:
        moved = func(
            ids, *args[1:], **{k: v for k, v in kwargs.items() if k not in ("dtype", "device", "memory_format")}
        )
    if not rec.checked and func.overloadpacket in CUTTING and cuts(ids, moved):
        rec.freeze(ids, f"{func.overloadpacket.__name__} in {rec.where}")
    for tensor, companion in zip(tensors_in(out), tensors_in(moved), strict=True):
        rec.set(tensor, tidy(companion) if tensor.numel() else companion)
        if ids.numel() and not tensor.numel():
            emptied(rec, ids, tensor)


def emptied(rec: Recorder, ids: Tensor, out: Tensor) -> None:
    """x[:, :0], x.repeat(n, 0, 1): nothing is left of it but its sizes, which are to fit where it is joined."""
    axes, behind = varying(ids), out.dim() - ids.dim()
    sizes = [out.shape[d + behind] for d in axes if d + behind >= 0]
    if len(sizes) < len(axes) or any(n != ids.shape[d] for n, d in zip(sizes, axes, strict=True) if n):
        rec.freeze(ids, f"nothing is left of its channels in {rec.where}")
    elif all(sizes):
        small = squeeze(ids)
        for d, n in enumerate(small.shape):
            small = small if d in axes else small.narrow(d, 0, min(n, 1))
        rec.empty(out, small.expand([max(n, 1) for n in out.shape]))


def cuts(before: Tensor, after: Any) -> bool:
    """Does an operator cut a channel axis (rather than a spatial one, or not at all)?"""
    pieces = list(tensors_in(after))
    axes, total = len(varying(before)), _number(before)
    return axes > 0 and any(_number(p) != total or len(varying(p)) > axes for p in pieces)


def _number(ids: Tensor) -> int:
    """How many different ones."""
    return len(distinct(squeeze(ids).numpy()))


def concatenate(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """cat: companions one behind the other (axes that are constant in all of them stay expanded)."""
    tensors = [t for t in args[0] if t.numel() or t.dim() == out.dim()]
    axis = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.dim()
    companions = [tidy(rec.channels.canonical(rec.ids(t))) for t in tensors]
    sizes = [c if t.numel() else rec.sizes_of_empty(t) for t, c in zip(tensors, companions, strict=True)]
    beside(rec, sizes, axis, "cat")
    index = tuple(
        slice(0, 1) if d != axis and all(c.stride(d) == 0 for c in companions) else slice(None)
        for d in range(out.dim())
    )
    joined = rec.channels.canonical(torch.cat([c[index] for c in companions], axis))  # what is one now looks so
    rec.set(out, tidy(joined.expand(out.shape)))


def stack(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """stack: as cat, along a new axis."""
    axis = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.dim()
    companions = [tidy(rec.channels.canonical(rec.ids(t))).unsqueeze(axis) for t in args[0]]
    beside(rec, companions, axis, "stack")
    rec.set(out, tidy(rec.channels.canonical(torch.cat(companions, axis))))


def beside(rec: Recorder, companions: list[Tensor], axis: int, name: str) -> None:
    """Tensors that are laid side by side along `axis` must keep the same sizes along the others."""
    axes = {d for ids in companions for d in varying(ids)} - {axis}
    why = f"{name} in {rec.where} lays it beside a constant of fixed size"
    for d in axes:
        first = next(ids for ids in companions if d in varying(ids))
        line = line_of(first, d)
        for ids in companions:
            small = squeeze(ids).movedim(d, 0)
            small = small.expand(len(line), *small.shape[1:]).reshape(len(line), -1)
            rec.channels.unite(line[:, None].expand_as(small), small, why)


def constant_pad(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """Constants beside channels, as many as the code says, are new channels that cannot go."""
    x, amounts = args[0], [int(n) for n in args[1]]
    ids = squeeze(rec.ids(x))
    for axis in varying(ids):
        place = 2 * (x.dim() - 1 - axis)
        before, after = amounts[place : place + 2] or (0, 0)
        if before < 0 or after < 0:
            rec.freeze(ids, f"F.pad crops its channels in {rec.where}")
        sides = []
        for amount in (max(before, 0), max(after, 0)):
            new = rec.channels.allocate(amount)
            rec.freeze(new, f"F.pad of {max(before, 0) + max(after, 0)} channels is written in the code of {rec.where}")
            sides.append(along(new, axis, [amount if d == axis else n for d, n in enumerate(ids.shape)]))
        kept = ids.narrow(axis, max(-before, 0), ids.shape[axis] + min(before, 0) + min(after, 0))
        ids = torch.cat([sides[0], kept, sides[1]], axis)
    rec.set(out, ids.expand(out.shape))


def restride(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """as_strided in place with the same shape: only the memory format changes (adaptive pooling to 1 x 1)."""
    ids = rec.companion(args[0])
    if ids is not None and ids.shape != out.shape:
        rec.freeze(ids, f"as_strided in {rec.where}")
        rec.set(out, None)


def roll(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """Roll: by a number of places written in the code."""
    x, dims = args[0], args[2] if len(args) > 2 else kwargs.get("dims", ())
    vary = varying(rec.ids(x))
    if vary and (not dims or {d % x.dim() for d in dims} & set(vary)):
        rec.freeze_all(x, f"roll over the channels in {rec.where}")
    else:
        replay(rec, func, args, kwargs, out)


def unfold_patches(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """F.unfold: every channel becomes one row per position of the kernel."""
    x = args[0]
    ids = rec.ids(x)
    axis = x.dim() - 3
    if set(varying(ids)) - {axis}:
        rec.freeze(ids, f"unfold over the channels in {rec.where}")
    elif varying(ids):
        line = line_of(ids, axis)
        rec.set(out, along(line.repeat_interleave(out.shape[axis] // len(line)), axis, out.shape))


def fold_patches(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """F.fold, the inverse: the rows of all positions of the kernel make one channel."""
    x = args[0]
    ids = rec.ids(x)
    axis = x.dim() - 2
    if set(varying(ids)) - {axis}:
        rec.freeze(ids, f"fold over the channels in {rec.where}")
    elif varying(ids):
        rows = line_of(ids, axis).reshape(out.shape[-3], -1)
        rec.channels.unite(rows[:, :1].expand_as(rows), rows, f"fold in {rec.where} adds it to a constant")
        rec.set(out, along(rows[:, 0], out.dim() - 3, out.shape))


def pixel_shuffle(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """The r x r channels that become the pixels of one are tied."""
    x, axis = args[0], args[0].dim() - 3
    ids = rec.ids(x)
    if axis in varying(ids):
        line = rec.read(x, axis).reshape(out.shape[axis], -1)
        rec.channels.unite(line[:, :1].expand_as(line), line, f"pixel_shuffle in {rec.where} mixes it with a constant")
        rec.set(out, along(line[:, 0], axis, out.shape))
    else:
        replay(rec, func, args, kwargs, out)


def halve(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """glu: the halves of an axis are multiplied, so they are tied."""
    ids = rec.ids(args[0])
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", -1)) % ids.dim()
    first, second = ids.chunk(2, dim)
    rec.channels.unite(squeeze(first), squeeze(second), f"glu in {rec.where} splits it beside a constant")
    rec.set(out, first)


def index(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """x[indices]: fine along axes without channels."""
    x, indices = args[0], args[1]
    ids = rec.ids(x)
    rec.freeze_all(indices, f"it chooses what is taken in {rec.where}")
    masks = any(i is not None and i.dtype == torch.bool and i.dim() > 1 for i in indices)
    if varying(ids) and (masks or set(varying(ids)) & {d for d, i in enumerate(indices) if i is not None}):
        why = f"an index tensor on its channels in {rec.where}"
        if rec.is_bare(ids):
            rec.misread(ids, why)
        rec.freeze(ids, why)
        return
    rec.set(out, tidy(func(ids, *args[1:], **kwargs)))


def put(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """x[indices] = values: they become one with what stood there."""
    x, indices, values = args[:3]
    ids = rec.ids(x)
    rec.freeze_all(indices, f"it chooses what is replaced in {rec.where}")
    why = f"an assignment in {rec.where} puts it beside a constant of fixed size"
    masks = any(i is not None and i.dtype == torch.bool and i.dim() > 1 for i in indices)
    if masks or set(varying(ids)) & {d for d, i in enumerate(indices) if i is not None}:
        rec.freeze_all((x, values), why)
        return
    old = aten.index(ids, indices)
    old, new = squeeze(tidy(old)), squeeze(rec.ids(values).expand(old.shape))
    if varying(old) or varying(new):
        shape = np.broadcast_shapes(old.shape, new.shape)
        rec.channels.unite(old.expand(shape), new.expand(shape), why)
    rec.set(out, ids)


CUTTING = {
    aten.split, aten.split_with_sizes, aten.slice, aten.select, aten.unbind, aten.view, aten._unsafe_view, aten.reshape,
    aten.channel_shuffle, aten.native_channel_shuffle, aten.index_select, aten.narrow,
}  # fmt: skip
OPERATORS: dict[Any, Any] = {
    **dict.fromkeys(
        [
            *CUTTING, aten.permute, aten.transpose, aten.t, aten.expand, aten.flip, aten.squeeze,
            aten.unsqueeze, aten.repeat, aten.pixel_unshuffle, aten.movedim, aten.swapaxes, aten.squeeze_,
            aten.unsqueeze_, aten.t_, aten.transpose_
        ],
        replay,
    ),
    aten.cat: concatenate, aten.stack: stack, aten.constant_pad_nd: constant_pad, aten.index: index,
    aten.index_put: put, aten.index_put_: put,
    aten.as_strided_: restride, aten.roll: roll, aten.pixel_shuffle: pixel_shuffle, aten.glu: halve,
    aten.im2col: unfold_patches, aten.col2im: fold_patches,
}  # fmt: skip
