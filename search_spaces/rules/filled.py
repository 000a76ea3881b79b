"""Tensors that the code fills itself: `torch.zeros(n, self.dim)`, `torch.ones_like(x)`.

They are as wide as the channels they meet, but what is in them comes from none, as in what is given to every channel
(`mask.expand(-1, c)`). Summed over, they tell how many channels there are, which pruning changes: of `ones(c).sum()`
the channels are frozen, as of `float(c)`. So they are where a layer reads such a tensor alone, unless it is zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import resolve_name

from search_spaces.attributes import counts_heads, is_width
from search_spaces.companions import along
from search_spaces.contents import tensors_in
from search_spaces.counts import ChannelCount, Size
from search_spaces.operators import quietly
from search_spaces.recorder import FILLED, Recorder, name_of
from search_spaces.rules.products import DISTANCES, PRODUCTS
from search_spaces.rules.reductions import LOSSES, ORDERED, SHARES, STATISTICS, axes_of

aten = torch.ops.aten

FILL = {torch.zeros, torch.ones, torch.empty, torch.full, torch.rand, torch.randn} | {
    torch.Tensor.new_zeros, torch.Tensor.new_ones, torch.Tensor.new_empty, torch.Tensor.new_full,
}  # fmt: skip
LIKE = {
    aten.zeros_like, aten.ones_like, aten.empty_like, aten.full_like, aten.rand_like, aten.randn_like, aten.fill,
    aten.fill_, aten.zero_, aten.copy_,
}  # fmt: skip
MIXING = STATISTICS | LOSSES | SHARES | ORDERED
AVERAGES = {aten.mean, aten.amax, aten.amin}  # of one value, however often: that value


def is_filled(rec: Recorder, tensor: Tensor) -> bool:
    """Is nothing in it but what the code has put there?"""
    return rec.filling(tensor) is not None


def follow(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """An operator has run: which tensors are filled now; channels that one of these was mixed over are frozen."""
    given = list(tensors_in((args, kwargs)))
    filled = [t for t in given if is_filled(rec, t)]
    alone = bool(filled) and not any(_has_data(rec, t) for t in given)
    mixed = _mixed(rec, func, args, kwargs) if filled else []
    over = [x for x, axes in mixed if set(rec.varying(x)) & set(axes)]
    if over and not any(_has_data(rec, x) for x, _ in mixed):
        rec.freeze_all(given, f"{name_of(func)} of a tensor without data in {rec.where} tells how many there are")
    values = not any(_has_data(rec, t) for t in tensors_in((args[1:], kwargs)))
    if func.overloadpacket in LIKE and values:
        mark(rec, tensors_in(out))
        for tensor in tensors_in(out if func._schema.is_mutable else ()):
            _put_into(rec, tensor, tensor._base)
    elif alone:
        mark(rec, tensors_in(out), whole=all(rec.filling(t) for t in filled))
    elif _fills_parts(rec, func, args, out):
        mark(rec, tensors_in(out), whole=False)
    elif func._schema.is_mutable:
        for tensor in tensors_in(out):
            for written in (tensor, tensor._base):
                if written is not None and is_filled(rec, written):
                    rec.graph.mark(written, FILLED, None)


def _has_data(rec: Recorder, tensor: Tensor) -> bool:
    """Does something in it come from channels? A parameter has them, though they may not be known yet."""
    if is_filled(rec, tensor):
        return False
    if id(tensor) in rec.names or id(tensor) in rec.views:
        return tensor.numel() > 1
    return bool(rec.varying(tensor))


@quietly
def _put_into(rec: Recorder, part: Tensor, base: Tensor | None) -> None:
    """A view of a tensor, if it is one, has been filled; with zeros, it is as if nothing was there."""
    if base is None:
        return
    if part.numel() == base.numel():
        mark(rec, [base])
    elif bool(part.any()):
        mark(rec, [base], whole=bool(rec.filling(base)))


@quietly
def _fills_parts(rec: Recorder, func: Any, args: Any, out: Any) -> bool:
    """Is it laid beside data, or chosen instead of some? Zeros beside them, on axes without channels, add nothing."""
    if func.overloadpacket is aten.cat:
        axis = (args[1] if len(args) > 1 else 0) % out.dim()
        return any(is_filled(rec, t) and (axis in rec.varying(out) or bool(t.any())) for t in args[0])
    if func.overloadpacket is aten.stack:
        return any(is_filled(rec, t) and bool(t.any()) for t in args[0])
    if func.overloadpacket is aten.where and len(args) > 1:
        return not _has_data(rec, args[0]) and any(is_filled(rec, t) and bool(t.any()) for t in tensors_in(args[1:]))
    return False


def _mixed(rec: Recorder, func: Any, args: Any, kwargs: Any) -> list[tuple[Tensor, list[int]]]:
    """What an operator sums over, or mixes otherwise: tensors, and their axes."""
    if func.overloadpacket in PRODUCTS:
        left, right = [a for a in args if isinstance(a, Tensor)][-2:]
        inner = right.dim() - (1 if func.overloadpacket in DISTANCES else 2)
        return [(left, [left.dim() - 1]), (right, [max(inner, 0)])]
    if func.overloadpacket not in MIXING:
        return []
    if func.overloadpacket in AVERAGES and _is_level(rec, args[0]):
        return []
    return [(x, axes_of(func, args, kwargs)) for x in args[: 2 if func.overloadpacket in LOSSES else 1]]


@quietly
def _is_level(rec: Recorder, tensor: Tensor) -> bool:
    """Is the same in all channels?"""
    return all(torch.equal(tensor.narrow(d, 0, 1).expand_as(tensor), tensor) for d in rec.varying(tensor))


def mark(rec: Recorder, tensors: Iterable[Tensor], *, whole: bool = True) -> None:
    """They are filled, or parts of them are."""
    for tensor in tensors:
        rec.graph.mark(tensor, FILLED, (rec, whole))


def counted(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """A number of channels is passed on: a new tensor of that size shrinks with them, all else freezes them."""
    flat = list(_leaves((*args, *kwargs.values())))
    if not any(isinstance(a, (Size, ChannelCount)) for a in flat):
        return
    axis = _follows_size(rec, func, flat, out)
    dims = [a for a in flat if isinstance(a, int) and not isinstance(a, bool)]
    for size in (a for d, a in enumerate(dims) if isinstance(a, Size) and d != axis):
        size.lose(f"{resolve_name(func) or func}")
    counts = [a for a in flat if isinstance(a, ChannelCount)]
    if not counts:
        return
    # Of two axes of a state (channels, and states of each) those go that more of the layers make.
    counts.sort(key=lambda count: -rec.made_with(count.ids))
    axis = next((i for i, a in enumerate(dims) if a is counts[0]), -1)
    if func in FILL and isinstance(out, Tensor) and counts[0].factor == 1 and 0 <= axis < out.dim():
        _wide(rec, out, counts.pop(0).ids, axis)
    for count in counts:
        rec.freeze(count.ids, f"their number enters {resolve_name(func) or func} in {rec.where}")


def _leaves(values: Iterable[Any]) -> Iterator[Any]:
    """What is in these lists and tuples, in whatever depth: `torch.tensor([[c]])`."""
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from _leaves(value)
        else:
            yield value


def _follows_size(rec: Recorder, func: Any, flat: list[Any], out: Any) -> int | None:
    """A new tensor as wide as an attribute says (the state a recurrent layer begins with): it may follow channels.

    Returns:
        Which of the whole numbers in `flat` is the width: a number of heads if there is one, else the last that stands
        in an attribute, called so if any is.
    """
    dims: list[Any] = [a for a in flat if isinstance(a, int) and not isinstance(a, bool)]
    sized = [d for d, a in enumerate(dims) if isinstance(a, Size)]
    heads = [d for d in sized if counts_heads(dims[d].terms)]
    axis = max(heads or [d for d in sized if is_width(dims[d].terms)] or sized, default=None)
    if axis is None or func not in FILL or not isinstance(out, Tensor) or axis >= out.dim():
        return None
    ids = rec.channels.allocate(out.shape[axis])
    rec.claim(dims[axis].terms, ids, f"the width of a new tensor in {rec.where} is that of other channels")
    _wide(rec, out, ids, axis)
    return axis


def _wide(rec: Recorder, out: Tensor, ids: Tensor, axis: int) -> None:
    """A new tensor has these channels along an axis; of an empty one, that is all."""
    rec.set(out, along(ids, axis, out.shape))
    mark(rec, [out])
    if not out.numel() and len(ids):
        rec.empty(out, along(ids, axis, [len(ids) if d == axis else max(n, 1) for d, n in enumerate(out.shape)]))
