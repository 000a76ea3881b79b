"""How a size was written: in the code, or computed from a shape?

These checks look at a *call* before it runs. A channel axis may only get a size that is counted from its own channels
(or left to PyTorch, as -1); parts of an axis are tied, so that each keeps as many and the code's own arithmetic still
holds. Whatever is written as a constant freezes the channels it meets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from search_spaces.attributes import counts_heads
from search_spaces.companions import folded, line_of, squeeze, tidy, varying
from search_spaces.counts import ChannelCount, Size, plain
from search_spaces.operators import quiet
from search_spaces.recorder import Recorder
from search_spaces.rules.arithmetic import spread
from search_spaces.rules.layers import bind
from search_spaces.rules.normalisations import matches


def tie(rec: Recorder, line: Tensor, size: int, why: str) -> None:
    """Each part of `size` keeps as many as the first: position by position they are one unit."""
    parts = line.reshape(-1, size)
    rec.channels.unite(parts[:1].expand_as(parts), parts, why)


def as_sizes(args: Any, kwargs: Any) -> list[Any]:
    """Sizes given as *args, as one sequence or by keyword; empty if they are something else (a dtype)."""
    values = args or tuple(kwargs.values())
    sizes = values[0] if values and isinstance(values[0], (tuple, list)) else values
    return [s if isinstance(s, int) else plain(s) for s in sizes if hasattr(s, "__index__")]


def origin(rec: Recorder, sizes: Sequence[Any]) -> str:
    """What is known of sizes that cannot be followed, as the end of a sentence: where they come from."""
    for size in (s for s in sizes if type(s) is int):
        if (said := rec.worked_out.get((rec.path[-1], size))) is not None:
            return f"is written in the code of {rec.where}, or takes the {size} that {said} there"
        if (rec.path[-1], size) in rec.staying:
            return f"is written in the code of {rec.where}, or counts channels that stay"
    return f"is written in the code of {rec.where}"


def check_view(rec: Recorder, x: Tensor, sizes: Sequence[Any], name: str) -> None:
    """A view: exactly one axis may grow and shrink with the channels; along the others they are tied."""
    shape = [plain(s) for s in sizes]
    ids = tidy(folded(rec.ids(x), [x.numel() // -math.prod(shape) if n == -1 else n for n in shape]))
    if len(varying(ids)) > 1:
        ids = tidy(rec.channels.canonical(ids))
    axes = varying(ids)
    on_constants(rec, [s for d, s in enumerate(sizes) if d not in axes], name)
    counted = [d for d in axes if isinstance(sizes[d], ChannelCount)]
    free = counted if len(counted) == 1 else [*counted, *(d for d in axes if shape[d] == -1)]  # -1: as many as ever
    sized = [d for d in axes if isinstance(sizes[d], Size)]
    heads = [d for d in sized if counts_heads(sizes[d].terms)]
    if sized and (heads or not free):  # whole heads go; else the sizes of the smaller units
        free = heads[:1] or [max(sized, key=lambda d: shape[d])]
    for d in set(sized) - set(free):
        rec.claim(sizes[d].terms, None, f"{name} in {rec.where} makes it the size of what keeps its own")
    if not axes:
        return
    why = f"{name}({', '.join(map(str, shape))}) {origin(rec, [sizes[d] for d in axes])}"
    if len(free) != 1:
        rec.freeze(ids, why)
        on_constants(rec, [sizes[d] for d in free], name)
        return
    small = squeeze(ids)
    for d in set(axes) - set(free):
        rec.channels.unite(small.narrow(d, 0, 1).expand_as(small), small, why)
    count = sizes[free[0]]
    if isinstance(count, (ChannelCount, Size)):
        rec.claim(count.terms, line_of(ids, free[0]), f"the sizes of {name} in {rec.where} count other channels")


def on_constants(rec: Recorder, counts: Sequence[Any], name: str) -> None:
    """Sizes of axes on which no channel lives: one that counts channels would shrink where nothing else does."""
    for count in counts:
        if isinstance(count, Size):
            rec.claim(count.terms, None, f"{name} in {rec.where} gives it to what keeps its size")
        # Channels that are all one unit cannot shrink.
        if isinstance(count, ChannelCount) and plain(count) != 1 and len(rec.channels.numbers(count.ids)) > 1:
            rec.freeze(count.ids, f"{name} in {rec.where} gives their number to what keeps its size")


def view(rec: Recorder, func: Any, args: Any, kwargs: Any) -> None:
    """x.view(*sizes), x.reshape(*sizes), torch.reshape(x, sizes)."""
    if sizes := as_sizes(args[1:], kwargs):
        check_view(rec, args[0], sizes, func.__name__)


def view_as(rec: Recorder, func: Any, args: Any, kwargs: Any) -> None:
    """x.view_as(y), x.reshape_as(y)."""
    x, other = bind(("input", "other"), args, kwargs).values()
    check_view(rec, x, rec.sizes(other), func.__name__)


def unflatten(rec: Recorder, func: Any, args: Any, kwargs: Any) -> None:
    """x.unflatten(dim, sizes)."""
    a = bind(("input", "dim", "sizes"), args, kwargs)
    x, dim = a["input"], a["dim"] % a["input"].dim()
    around = rec.sizes(x)
    check_view(rec, x, [*around[:dim], *a["sizes"], *around[dim + 1 :]], "unflatten")


def split_parts(
    rec: Recorder, x: Tensor, sizes: Sequence[Any], axis: int, why: str, *, equal: bool = False, listed: bool = False
) -> None:
    """A split of `axis` in parts of `sizes`.

    Args:
        rec: The recorder.
        x: What is split.
        sizes: Of the parts.
        axis: Along which.
        why: Reason given where it freezes.
        equal: The code asks for a number of equal parts, not for sizes.
        listed: It gives every size, so that a part of fixed size may lie beside others.
    """
    if axis not in rec.varying(x):
        on_constants(rec, sizes, "a split")
        return
    line = line_of(rec.ids(x), axis)
    if len(rec.varying(x)) > 1:
        rec.read(x, axis)
    numbers = [plain(s) for s in sizes]
    pieces = torch.split(line, numbers)

    def follow() -> bool:
        return all(
            (listed and type(count) is int) or matches(rec, piece, count)
            for piece, count in zip(pieces, sizes, strict=True)
        )

    for piece, count in zip(pieces, sizes, strict=True):
        if listed and type(count) is int:
            rec.freeze(piece, why)
    if not equal and follow():
        return  # x = cat(a, b), split again by the sizes of a and b
    if not equal and any(isinstance(s, Size) for s in sizes) and not any(type(s) is int for s in sizes):
        for piece, count in zip(pieces, sizes, strict=True):
            if not matches(rec, piece, count):
                rec.promise(ChannelCount.of(piece, rec), count, why)
        return
    if len(set(numbers)) == 1 if equal else all(isinstance(s, ChannelCount) for s in sizes):
        tie(rec, line, math.gcd(*numbers), why)
        if not equal and not follow():
            for piece, count in zip(pieces, sizes, strict=True):
                rec.promise(ChannelCount.of(piece, rec), count, why)  # they may still become one with what is counted
        return
    others = [(p, s) for p, s in zip(pieces, sizes, strict=True) if not (listed and type(s) is int)]
    if 0 < len(others) < len(sizes) and all(isinstance(s, ChannelCount) for _, s in others):
        for piece, count in others:
            rec.promise(ChannelCount.of(piece, rec), count, why)
        return
    rec.freeze(line, why)
    for count in sizes:
        if isinstance(count, ChannelCount):
            rec.freeze(count.ids, why)


def chunk(rec: Recorder, func: Any, args: Any, kwargs: Any) -> None:
    """x.chunk(n, dim), x.tensor_split(n, dim): equal parts are tied."""
    x, number, dim = bind(("input", "number", "dim"), args, {_NUMBER.get(k, k): v for k, v in kwargs.items()}).values()
    dim = (dim or 0) % x.dim()
    why = f"{func.__name__} in {rec.where} splits it unevenly or beside a constant"
    if isinstance(number, Size):
        number = number.lose(func.__name__)
    if isinstance(number, int):
        pieces = getattr(rec.ids(x), func.__name__)(plain(number), dim)
        split_parts(rec, x, [p.shape[dim] for p in pieces], dim, why, equal=True)
    elif dim in rec.varying(x):
        rec.freeze_all(x, why)


_NUMBER = {"chunks": "number", "sections": "number", "indices_or_sections": "number", "indices": "number"}
_SIZES = {"split_size": "sizes", "split_sizes": "sizes", "split_size_or_sections": "sizes", "tensor": "input"}


def split(rec: Recorder, func: Any, args: Any, kwargs: Any) -> None:
    """x.split(size or sizes, dim)."""
    x, sizes, dim = bind(("input", "sizes", "dim"), args, {_SIZES.get(k, k): v for k, v in kwargs.items()}).values()
    dim = (dim or 0) % x.dim()
    listed = not isinstance(sizes, int)
    if not listed:
        full, rest = divmod(x.shape[dim], plain(sizes))
        sizes = [sizes] * full + ([rest] if rest else [])
    shown = ", ".join(str(plain(s)) for s in sizes)
    split_parts(rec, x, sizes, dim, f"split({shown}) {origin(rec, sizes)}", listed=listed)


def glu(rec: Recorder, func: Any, args: Any, kwargs: Any) -> None:
    """F.glu halves an axis."""
    x, dim = bind(("input", "dim"), args, kwargs).values()
    dim = (-1 if dim is None else dim) % x.dim()
    split_parts(rec, x, [x.shape[dim] // 2] * 2, dim, f"glu in {rec.where}", equal=True)


def channel_shuffle(rec: Recorder, func: Any, args: Any, kwargs: Any) -> None:
    """F.channel_shuffle(x, groups): each group keeps as many."""
    x, groups = (*args, *kwargs.values())[:2]
    split_parts(rec, x, [x.shape[1] // groups] * groups, 1, f"channel_shuffle in {rec.where}", equal=True)


def index(rec: Recorder, func: Any, args: Any, kwargs: Any) -> None:
    """x[...] and x[...] = y: only whole slices and slices at counted bounds follow the channels of an axis."""
    x, items = args[0], args[1] if isinstance(args[1], tuple) else (args[1],)
    wide = [i.dim() if isinstance(i, Tensor) and i.dtype == torch.bool else int(i is not None) for i in items]
    used = sum(w for w, i in zip(wide, items, strict=True) if i is not Ellipsis)
    vary, axis = rec.varying(x), 0
    for width, item in zip(wide, items, strict=True):
        width = x.dim() - used if item is Ellipsis else width
        for d in range(axis, axis + width):
            if d in vary and item is not Ellipsis:
                take(rec, x, d, item)
            else:
                bounds = (item.start, item.stop, item.step) if isinstance(item, slice) else (item,)
                on_constants(rec, bounds, "an index")
        axis += width


def take(rec: Recorder, x: Tensor, axis: int, item: Any) -> None:
    """One index on a channel axis."""
    line = line_of(rec.ids(x), axis)
    total = len(line)
    if isinstance(item, slice) and item.step in (None, 1):
        low, high, _ = slice(*(None if b is None else plain(b) for b in (item.start, item.stop))).indices(total)
        # A bound is safe at an end of the axis, and where it counts what lies before it.
        open_low = not isinstance(item.start, (ChannelCount, Size)) and low == 0
        open_high = not isinstance(item.stop, (ChannelCount, Size)) and high == total

        def follow() -> bool:
            return (open_low or matches(rec, line[:low], item.start)) and (
                open_high or matches(rec, line[:high], item.stop)
            )

        if follow():
            return
        counted = (open_low or isinstance(item.start, ChannelCount)) and (
            open_high or isinstance(item.stop, ChannelCount)
        )
        if counted and (part := math.gcd(low, high, total)):
            why = f"a slice in {rec.where} cuts it where others are counted"
            tie(rec, line, part, why)
            if not follow():
                for piece, bound in ((line[:low], item.start), (line[:high], item.stop)):
                    if isinstance(bound, ChannelCount):
                        rec.promise(ChannelCount.of(piece, rec), bound, why)
            return
    elif isinstance(item, slice) and every(rec, line, item):
        return
    if isinstance(item, slice) and item.step in (None, 1):
        bounds = [b for b in (item.start, item.stop) if b is not None]
        if all(type(b) is int for b in bounds):  # the channels up to there stay where they are
            rec.freeze(rec.ids(x).narrow(axis, *_counted_off(bounds, total)), shown_index(rec, item))
            return
    rec.freeze(rec.ids(x), shown_index(rec, item))


def _counted_off(bounds: Sequence[int], total: int) -> tuple[int, int]:
    """Start and number of the places that these bounds count, from either end."""
    if all(b >= 0 for b in bounds):
        return 0, min(max(bounds), total)
    if all(b < 0 for b in bounds):
        return max(total + min(bounds), 0), min(-min(bounds), total)
    return 0, total


def shown_index(rec: Recorder, item: Any) -> str:
    """Why an index freezes."""
    shown, bounds = "an index", []
    if isinstance(item, slice):
        bounds = [item.start, item.stop, item.step]
        shown = ":".join(
            "" if b is None else str(plain(b))
            for b in (item.start, item.stop, item.step)[: 2 + (item.step is not None)]
        )
    return f"the index [{shown}] on its channels {origin(rec, bounds)}"


def every(rec: Recorder, line: Tensor, item: slice) -> bool:
    """x[..., i::n]: n channels one after the other are a unit; False if it takes something else."""
    step, start = item.step, 0 if item.start is None else item.start
    if item.stop is not None or type(step) is not int or type(start) is not int:
        return False
    if len(line) % step or not 0 <= start < step:
        return False
    blocks = line.reshape(-1, step)
    rec.channels.unite(blocks[:, :1].expand_as(blocks), blocks, f"a slice in {rec.where} takes it beside a constant")
    return True


def narrow(rec: Recorder, func: Any, args: Any, kwargs: Any) -> None:
    """x.narrow(dim, start, length), x.select(dim, index), x.unbind(dim), x.index_select(dim, index)."""
    a = bind(("input", "dim", "start", "length"), args, kwargs)
    x, dim = a["input"], a["dim"] or 0
    start, length = a["start"], a["length"]
    if not isinstance(dim, int) or dim % x.dim() not in rec.varying(x):
        on_constants(rec, (start, length), func.__name__)
    else:
        item = slice(start, start + length) if func.__name__ == "narrow" and not isinstance(start, Tensor) else None
        take(rec, x, dim % x.dim(), item)


def pad(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Tensor:
    """F.pad by counted amounts cannot be followed; amounts written in the code are dealt with by `constant_pad`.

    In a circle it is made of many assignments, and dealt with here.
    """
    x, amounts, mode = (bind(("input", "pad", "mode"), args, kwargs)[name] for name in ("input", "pad", "mode"))
    with quiet():
        if counts := [p for p in amounts if isinstance(p, ChannelCount)]:
            rec.freeze_all(x, f"F.pad by a number of channels in {rec.where}")
            on_constants(rec, counts, "F.pad")
    circular = mode == "circular"
    with rec.inside(opaque=circular, checked=True):
        out: Tensor = func(*args, **kwargs)
    if circular:
        spread(rec, x, rec.ids(x), len(amounts) // 2, out, "F.pad")
    return out


def drop_ones(rec: Recorder, func: Any, args: Any, kwargs: Any) -> None:
    """x.squeeze(), x.squeeze(dim): a channel axis must not shrink to 1, or it would vanish."""
    x, dim = bind(("input", "dim"), args, kwargs).values()
    dims = range(x.dim()) if dim is None else [dim] if isinstance(dim, int) else dim
    rec.several.extend(line_of(rec.ids(x), d) for d in {d % max(x.dim(), 1) for d in dims} & set(rec.varying(x)))


def length(rec: Recorder, func: Any, args: Any, kwargs: Any) -> None:
    """len(x): Python makes a plain number of it."""
    if (name := rec.names.get(id(args[0]))) is not None:
        rec.keep_whole(name, 0, f"len() counts its channels in {rec.where}")
    elif 0 in rec.varying(args[0]):
        rec.freeze(rec.ids(args[0]), f"len() counts its channels in {rec.where}")


def values_leave(rec: Recorder, func: Any, args: Any, kwargs: Any) -> None:
    """The numbers go where no rule can follow them."""
    rec.freeze_all(args, f"Tensor.{func.__name__}() in {rec.where}")


T = torch.Tensor
FUNCTIONS: dict[Any, Any] = {functional.pad: pad}
CHECKS: dict[Any, Any] = {
    **dict.fromkeys([T.view, T.reshape, torch.reshape], view),
    **dict.fromkeys([T.view_as, T.reshape_as], view_as),
    **dict.fromkeys([T.unflatten, torch.unflatten], unflatten),
    **dict.fromkeys((T.chunk, torch.chunk, T.tensor_split, torch.tensor_split), chunk),
    **dict.fromkeys((T.split, torch.split, T.split_with_sizes, torch.split_with_sizes), split),
    functional.glu: glu,
    **dict.fromkeys([T.__getitem__, T.__setitem__], index),
    **dict.fromkeys([T.narrow, torch.narrow, T.select, torch.select, T.unbind, torch.unbind], narrow),
    **dict.fromkeys([T.index_select, torch.index_select], narrow),
    **dict.fromkeys([T.squeeze, torch.squeeze, T.squeeze_], drop_ones),
    **dict.fromkeys([functional.channel_shuffle, torch.channel_shuffle], channel_shuffle),
    **dict.fromkeys([functional.native_channel_shuffle, torch.native_channel_shuffle], channel_shuffle),
    **dict.fromkeys([T.numpy, T.item, T.tolist, T.__array__, T.data_ptr, T.storage_offset], values_leave),
    **dict.fromkeys([torch._shape_as_tensor], values_leave),
    T.__len__: length,
    **dict.fromkeys([T.__bool__, T.__float__, T.__int__], values_leave),
}
WRITTEN = {view, view_as, unflatten}  # what may say in the code how wide a parameter is
AT_ONCE = {length, values_leave}  # no operator comes after it
# Composites whose inner splits and slices follow the sizes of their operands.
SAFE = {
    T.flatten, torch.flatten, T.matmul, torch.matmul, T.__matmul__, torch.einsum, torch.functional.einsum,
    functional.pixel_shuffle, functional.pixel_unshuffle, torch.pixel_shuffle, torch.pixel_unshuffle, torch.bmm,
    functional.adaptive_avg_pool1d, functional.adaptive_avg_pool2d, functional.max_pool1d, torch.tensordot, T.unsqueeze,
}  # fmt: skip
