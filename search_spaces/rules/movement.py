"""Movement: view, permute, cat, split, slice, pad ... apply the same operation to the companion.

Two tables. `CHECKS` look at a *call* before it runs: is each size that a channel axis gets computed from a shape, or written
in the code? They tie or freeze accordingly. `OPERATORS` then just repeat the ATen operator on the companion.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from search_spaces.counts import ChannelCount
from search_spaces.recorder import COMPANION, Recorder, along, squeeze, tensors_in, tidy, varying

aten = torch.ops.aten


# -- checks: how a size was written ------------------------------------------------------------------------------
def matches(rec: Recorder, line: Tensor, count: ChannelCount) -> bool:
    """Does an axis with ids `line` always have the size that `count` says, whatever is pruned?"""
    here = Counter(rec.channels.canonical(line).tolist())
    there = Counter(rec.channels.canonical(count.ids).tolist())
    return here.keys() == there.keys() and all(here[i] == there[i] * count.factor for i in here)


def tie(rec: Recorder, parts: Sequence[Tensor], why: str) -> None:
    """Each part keeps as many as the first: position by position they are one unit."""
    for part in parts[1:]:
        rec.channels.unite(parts[0], part, why)


def line_of(ids: Tensor, axis: int) -> Tensor:
    """The ids along `axis` at the first position of all others, [n]."""
    line = squeeze(ids).movedim(axis, 0).flatten(1)[:, 0]
    return line.expand(ids.shape[axis]) if line.numel() == 1 else line


def check_view(rec: Recorder, x: Tensor, sizes: Sequence[Any], name: str) -> None:
    """A view: at most one axis may grow and shrink with the channels; along the others they are tied."""
    ids = tidy(rec.ids(x).reshape([int(s) for s in sizes]))
    vary = varying(ids)
    free = [d for d in vary if isinstance(sizes[d], ChannelCount) or sizes[d] == -1]
    literal = [d for d in vary if d not in free]
    shown = ", ".join(str(int(s)) for s in sizes)
    why = f"{name}({shown}) is written in the code of {rec.where}"
    if not vary:
        return
    if len(free) > 1 and literal == [] and len(varying(rec.ids(x))) >= len(free):
        literal = []
    elif len(free) != 1:
        rec.freeze(ids, why)
        return
    axis = free[0]
    small = squeeze(ids)
    for d in literal:
        rec.channels.unite(small.narrow(d, 0, 1).expand_as(small), small, why)
    for d in free:
        if isinstance(sizes[d], ChannelCount) and not matches(rec, line_of(ids, d), sizes[d]):
            rec.freeze(ids, f"the sizes of {name} in {rec.where} count other channels")
            rec.freeze(sizes[d].ids, f"the sizes of {name} in {rec.where} count them for other channels")
    del axis


def view(rec: Recorder, func: Any, args: Any, kwargs: Any) -> None:
    """x.view(*sizes), x.reshape(*sizes), torch.reshape(x, sizes)."""
    x, rest = args[0], args[1:]
    rest = rest or tuple(kwargs.values())
    sizes = rest[0] if rest and isinstance(rest[0], (tuple, list)) else rest
    if sizes and all(isinstance(s, int) for s in sizes):
        check_view(rec, x, list(sizes), func.__name__)


def unflatten(rec: Recorder, func: Any, args: Any, kwargs: Any) -> None:
    """x.unflatten(dim, sizes)."""
    x, dim, sizes = (*args, *kwargs.values())[:3]
    dim %= x.dim()
    around = [ChannelCount.of(line_of(rec.ids(x), d), rec.freeze) if d in rec.varying(x) else x.shape[d] for d in range(x.dim())]
    check_view(rec, x, [*around[:dim], *sizes, *around[dim + 1 :]], "unflatten")


def expand(rec: Recorder, func: Any, args: Any, kwargs: Any) -> None:
    """x.expand(*sizes), x.repeat(*times): a size written in the code that spreads one channel over many."""
    x, rest = args[0], args[1:] or tuple(kwargs.values())
    sizes = rest[0] if rest and isinstance(rest[0], (tuple, list)) else rest
    ids = rec.ids(x)
    spread = [s for s in sizes if not isinstance(s, ChannelCount) and isinstance(s, int) and s > 1]
    if not varying(ids) and spread and len(sizes) > 2 and int(sizes[1]) > 1 and not isinstance(sizes[1], ChannelCount):
        rec.freeze(ids, f"{func.__name__}({', '.join(map(str, sizes))}) is written in the code of {rec.where}")


def parts(rec: Recorder, x: Tensor, sizes: Sequence[Any], axis: int, why: str, *, equal: bool) -> None:
    """A split of `axis` in parts of `sizes`; `equal`: the code asks for a number of equal parts, not for sizes."""
    if axis not in rec.varying(x):
        return
    line = line_of(rec.ids(x), axis)
    if len(rec.varying(x)) > 1:
        rec.read(x, axis)
    pieces = torch.split(line, [int(s) for s in sizes])
    counts = [s if isinstance(s, ChannelCount) else None for s in sizes]
    if all(c is not None and matches(rec, piece, c) for piece, c in zip(pieces, counts, strict=True)):
        return  # x = cat(a, b), split again by the sizes of a and b
    even = len({len(p) for p in pieces}) == 1
    if even and (equal or all(c is not None for c in counts)):
        tie(rec, pieces, why)
        if equal or all(matches(rec, p, c) for p, c in zip(pieces, counts, strict=True) if c is not None):
            return
    rec.freeze(line, why)
    for c in counts:
        if c is not None:
            rec.freeze(c.ids, why)


def chunk(rec: Recorder, func: Any, args: Any, kwargs: Any) -> None:
    """x.chunk(n, dim), x.tensor_split(n, dim): equal parts are tied."""
    x, number, dim = (*args, *kwargs.values(), 0)[:3] if len(args) + len(kwargs) >= 2 else (args[0], 1, 0)
    dim = kwargs.get("dim", dim) % x.dim()
    why = f"{func.__name__} in {rec.where} splits it unevenly or beside a constant"
    if isinstance(number, int):
        parts(rec, x, [p.shape[dim] for p in _plain(rec, x).tensor_split(number, dim)] if func.__name__ == "tensor_split"
              else [p.shape[dim] for p in _plain(rec, x).chunk(number, dim)], dim, why, equal=True)
    else:
        rec.freeze_all(x, why)


def _plain(rec: Recorder, x: Tensor) -> Tensor:
    return rec.ids(x)


def split(rec: Recorder, func: Any, args: Any, kwargs: Any) -> None:
    """x.split(size or sizes, dim)."""
    values = [*args, *kwargs.values()]
    x, sizes = values[0], values[1]
    dim = kwargs.get("dim", values[2] if len(values) > 2 and "dim" not in kwargs else 0) % x.dim()
    total = x.shape[dim]
    if isinstance(sizes, int):
        full, rest = divmod(int(total), int(sizes))
        sizes = [sizes] * full + ([rest] if rest else [])
    parts(rec, x, sizes, dim, f"split({', '.join(str(int(s)) for s in sizes)}) is written in the code of {rec.where}", equal=False)


def glu(rec: Recorder, func: Any, args: Any, kwargs: Any) -> None:
    """F.glu halves an axis."""
    x = args[0]
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", -1)) % x.dim()
    half = x.shape[dim] // 2
    parts(rec, x, [half, half], dim, f"glu in {rec.where}", equal=True)


def getitem(rec: Recorder, func: Any, args: Any, kwargs: Any) -> None:
    """x[...]: along a channel axis only whole slices and slices at counted bounds can follow the channels."""
    x, index = args
    index = index if isinstance(index, tuple) else (index,)
    if any(isinstance(i, Tensor) for i in index):
        used = sum(i.dim() if isinstance(i, Tensor) and i.dtype == torch.bool else 1 for i in index if i is not None and i is not Ellipsis)
    else:
        used = sum(i is not None and i is not Ellipsis for i in index)
    vary = rec.varying(x)
    axis = 0
    for item in index:
        if item is None:
            continue
        if item is Ellipsis:
            axis += x.dim() - used
            continue
        if axis in vary:
            take(rec, x, axis, item)
        axis += item.dim() if isinstance(item, Tensor) and item.dtype == torch.bool else 1


def take(rec: Recorder, x: Tensor, axis: int, item: Any) -> None:
    """One index on a channel axis."""
    line = line_of(rec.ids(x), axis)
    if isinstance(item, slice) and item.step in (None, 1):
        start, stop = item.start or 0, item.stop if item.stop is not None else len(line)
        if int(start) == 0 and int(stop) >= len(line) and not isinstance(stop, ChannelCount):
            return
        bounds = [start if not (isinstance(start, int) and start < 0) else None, stop]
        first, last = (b if isinstance(b, ChannelCount) else None for b in bounds)
        low, high, _ = slice(int(start), int(stop)).indices(len(line))
        head = low == 0 or (first is not None and matches(rec, line[:low], first))
        tail = high == len(line) or (last is not None and matches(rec, line[:high], last))
        if head and tail:
            return
        size = high - low
        if size and len(line) % size == 0 and low % size == 0 and all(int(b) in (0, len(line)) or isinstance(b, ChannelCount) for b in bounds if b is not None):
            pieces = line.split(size)
            tie(rec, pieces, f"a slice in {rec.where}")
            if (low == 0 or (first is not None and matches(rec, line[:low], first))) and (
                high == len(line) or (last is not None and matches(rec, line[:high], last))
            ):
                return
    shown = f"{item.start or ''}:{item.stop or ''}{f':{item.step}' if item.step else ''}" if isinstance(item, slice) else "an index"
    rec.freeze(rec.ids(x), f"the index [{shown}] on its channels is written in the code of {rec.where}")


def narrow(rec: Recorder, func: Any, args: Any, kwargs: Any) -> None:
    """x.narrow(dim, start, length), x.select(dim, index), x.unbind(dim), x.index_select(dim, index)."""
    values = [*args, *kwargs.values()]
    x, dim = values[0], (values[1] if len(values) > 1 else 0)
    if isinstance(dim, int) and dim % x.dim() in rec.varying(x):
        name = func.__name__
        item = slice(values[2], values[2] + values[3]) if name == "narrow" else 0
        take(rec, x, dim % x.dim(), item)


def pad(rec: Recorder, func: Any, args: Any, kwargs: Any) -> None:
    """F.pad by counted amounts cannot be followed; amounts written in the code are dealt with by `constant_pad`."""
    values = [*args, *kwargs.values()]
    if any(isinstance(p, ChannelCount) for p in values[1]):
        rec.freeze_all(values, f"F.pad by a number of channels in {rec.where}")


def channel_shuffle(rec: Recorder, func: Any, args: Any, kwargs: Any) -> None:
    """F.channel_shuffle(x, groups): each group keeps as many."""
    x, groups = (*args, *kwargs.values())[:2]
    parts(rec, x, [x.shape[1] // groups] * groups, 1, f"channel_shuffle in {rec.where}", equal=True)


def values_leave(rec: Recorder, func: Any, args: Any, kwargs: Any) -> None:
    """The numbers go where no rule can follow them."""
    rec.freeze_all(args, f"Tensor.{func.__name__}() in {rec.where}")


T = torch.Tensor
CHECKS: dict[Any, Any] = {
    **dict.fromkeys([T.view, T.reshape, torch.reshape], view),
    **dict.fromkeys([T.unflatten, torch.unflatten], unflatten),
    **dict.fromkeys([T.expand, T.repeat], expand),
    **dict.fromkeys([T.chunk, torch.chunk, T.tensor_split, torch.tensor_split], chunk),
    **dict.fromkeys([T.split, torch.split, T.split_with_sizes, torch.split_with_sizes], split),
    functional.glu: glu,
    **dict.fromkeys([T.__getitem__], getitem),
    **dict.fromkeys([T.narrow, torch.narrow, T.select, torch.select, T.unbind, torch.unbind, T.index_select, torch.index_select], narrow),
    functional.pad: pad,
    **dict.fromkeys([functional.channel_shuffle, torch.channel_shuffle, functional.native_channel_shuffle, torch.native_channel_shuffle], channel_shuffle),
    **dict.fromkeys([T.numpy, T.item, T.tolist, T.__array__, T.data_ptr, T.__bool__, T.__float__, T.__int__], values_leave),
}  # fmt: skip
# Composites whose inner splits and slices follow the sizes of their operands.
SAFE = {
    T.flatten, torch.flatten, T.matmul, torch.matmul, T.__matmul__, torch.einsum, torch.functional.einsum, T.view_as, T.reshape_as,
    T.expand_as, functional.pixel_shuffle, functional.pixel_unshuffle, torch.pixel_shuffle, functional.instance_norm, torch.bmm,
    functional.adaptive_avg_pool1d, functional.adaptive_avg_pool2d, functional.max_pool1d, torch.tensordot, T.squeeze, T.unsqueeze,
}  # fmt: skip


# -- operators: the same movement of the companion ---------------------------------------------------------------
def replay(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Apply the operator to the companion."""
    x = args[0]
    ids = rec.ids(x)
    if func.overloadpacket in (aten.view, aten._unsafe_view, aten.reshape):
        moved: Any = ids.reshape(out.shape)
    else:
        moved = func(ids, *args[1:], **{k: v for k, v in kwargs.items() if k not in ("dtype", "device", "memory_format")})
    if not rec.checked and func.overloadpacket in CUTTING and cuts(ids, moved):
        rec.freeze(ids, f"{func.overloadpacket.__name__} in {rec.where}")
    for tensor, companion in zip(tensors_in(out), tensors_in(moved), strict=True):
        rec.set(tensor, tidy(companion))


def cuts(before: Tensor, after: Any) -> bool:
    """Does an operator cut a channel axis (rather than a spatial one, or not at all)?"""
    pieces = list(tensors_in(after))
    total = before.unique().numel()
    return len(varying(before)) > 0 and (
        any(p.unique().numel() != total for p in pieces) or any(len(varying(p)) > len(varying(before)) for p in pieces)
    )


def concatenate(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """cat: companions one behind the other (axes that are constant in all of them stay expanded)."""
    tensors = [t for t in args[0] if t.numel() or t.dim() == out.dim()]
    axis = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.dim()
    companions = [rec.ids(t) for t in tensors]
    index = tuple(
        slice(0, 1) if d != axis and all(c.stride(d) == 0 for c in companions) else slice(None) for d in range(out.dim())
    )
    joined = torch.cat([c[index] for c in companions], axis)
    rec.set(out, tidy(joined.expand(out.shape)))


def stack(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """stack: as cat, along a new axis."""
    axis = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.dim()
    rec.set(out, tidy(torch.stack([rec.ids(t) for t in args[0]], axis)))


def constant_pad(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """Constants beside channels, as many as the code says, are new channels that cannot go."""
    x, amounts = args[0], list(args[1])
    ids = rec.ids(x)
    vary = varying(ids)
    for i in range(0, len(amounts), 2):
        axis = x.dim() - 1 - i // 2
        before, after = int(amounts[i]), int(amounts[i + 1])
        if axis in vary and (before or after):
            if before < 0 or after < 0:
                rec.freeze(ids, f"F.pad crops its channels in {rec.where}")
            small = squeeze(ids)
            side = [small.narrow(axis, 0, 1).new_empty(0)] * 2
            for s, amount in enumerate((before, after)):
                side[s] = along(rec.channels.allocate(max(amount, 0)), axis, [max(amount, 0) if d == axis else n for d, n in enumerate(small.shape)])
                rec.freeze(side[s], f"F.pad of {abs(before) + abs(after)} channels is written in the code of {rec.where}")
            kept = small.narrow(axis, max(-before, 0), small.shape[axis] - max(-before, 0) - max(-after, 0))
            ids = torch.cat([side[0], kept, side[1]], axis)
            ids = ids.expand([ids.shape[axis] if d == axis else n for d, n in enumerate(small_shape(ids, x, axis))])
        elif before or after:
            ids = ids.narrow(axis, 0, 1).expand([out.shape[axis] if d == axis else n for d, n in enumerate(ids.shape)])
    rec.set(out, ids if ids.shape == out.shape else ids.expand(out.shape))


def small_shape(ids: Tensor, x: Tensor, axis: int) -> list[int]:
    """Sizes to which a padded, squeezed companion is expanded again."""
    return [ids.shape[d] if ids.shape[d] != 1 else x.shape[d] for d in range(x.dim())]


def restride(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """as_strided in place with the same shape: only the memory format changes (adaptive pooling to 1 x 1)."""
    ids = getattr(args[0], COMPANION, None)
    if ids is not None and ids.shape != out.shape:
        rec.freeze(ids, f"as_strided in {rec.where}")
        rec.set(out, None)


def index(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """x[indices]: fine along axes without channels."""
    x, indices = args[0], args[1]
    ids = rec.ids(x)
    if set(varying(ids)) & {d for d, i in enumerate(indices) if i is not None}:
        rec.freeze(ids, f"an index tensor on its channels in {rec.where}")
        return
    rec.set(out, tidy(func(ids, *args[1:], **kwargs)))


CUTTING = {
    aten.split, aten.split_with_sizes, aten.slice, aten.select, aten.unbind, aten.view, aten._unsafe_view, aten.reshape,
    aten.channel_shuffle, aten.native_channel_shuffle, aten.index_select, aten.narrow,
}  # fmt: skip
OPERATORS: dict[Any, Any] = {
    **dict.fromkeys(
        [*CUTTING, aten.permute, aten.transpose, aten.t, aten.expand, aten.roll, aten.flip, aten.squeeze, aten.unsqueeze, aten.repeat,
         aten.pixel_shuffle, aten.pixel_unshuffle, aten.movedim, aten.swapaxes, aten.diagonal, aten.rot90, aten.squeeze_,
         aten.unsqueeze_, aten.t_, aten.transpose_],
        replay,
    ),
    aten.cat: concatenate, aten.stack: stack, aten.constant_pad_nd: constant_pad, aten.index: index,
    aten.as_strided_: restride,
}  # fmt: skip
