"""One position becomes several: expand, repeat, repeat_interleave.

An axis of 1 that is spread over counted channels becomes theirs; one head becomes that of each of several, also where a
matrix product spreads it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from search_spaces.attributes import counts_heads, is_width
from search_spaces.companions import along, line_of
from search_spaces.counts import ChannelCount, Size, plain
from search_spaces.recorder import Recorder
from search_spaces.rules.filled import mark
from search_spaces.rules.layers import bind
from search_spaces.rules.sizes import as_sizes, on_constants


def spread(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Tensor:
    """x.expand(*sizes), x.expand_as(y), x.repeat(*times): an axis of 1 spread over counted channels becomes theirs."""
    x = args[0]
    if func is T.expand_as:
        other = args[1] if len(args) > 1 else kwargs["other"]
        sizes: list[Any] = rec.sizes(other)
    else:
        sizes = as_sizes(args[1:], kwargs)
    if (found := for_every_channel(rec, func, args, kwargs, sizes)) is not None:
        return found
    with rec.inside(checked=True):
        out: Tensor = func(*args, **kwargs)
    counts = [(d, s) for d, s in enumerate(sizes) if isinstance(s, ChannelCount) and _old_size(x, d - len(sizes)) == 1]
    before = rec.ids(x)
    heads = [d for d, s in enumerate(sizes) if plain(s) == out.shape[d] > 1 and _old_size(x, d - len(sizes)) == 1
             and has_one_head(rec, x, s)]  # fmt: skip
    if len(heads) == 1 and len(sizes) == out.dim() and not counts:
        for_every_head(rec, x, out, heads[0], sizes[heads[0]], func.__name__)
        return out
    if not counts or len(sizes) != out.dim():
        vary = rec.varying(out)
        for d, s in enumerate(sizes, out.dim() - len(sizes)):
            if isinstance(s, ChannelCount) and (func is T.repeat or d not in vary):
                on_constants(rec, [s], func.__name__)
        return out
    rec.freeze(before, f"{func.__name__} in {rec.where} spreads it over other channels")
    for _, count in counts:
        count.lose(func.__name__)
    return out


def for_every_channel(rec: Recorder, func: Any, args: Any, kwargs: Any, sizes: list[Any]) -> Tensor | None:
    """What is given to each of counted channels, and stays: a filter, or several; what all heads share. Else None."""
    x = args[0]
    own = id(x) in rec.names or rec.view_of(x) is not None
    counted = [d for d, s in enumerate(sizes) if isinstance(s, ChannelCount) or (own and _is_width(s))]
    counted = [d for d in counted if func is T.repeat or _old_size(x, d - len(sizes)) == 1]
    if len(counted) != 1 or len(sizes) < x.dim():
        return None
    axis, size = counted[0], sizes[counted[0]]
    old = _old_size(x, axis - len(sizes))
    if (old != 1 and not own and rec.varying(x)) or (isinstance(size, ChannelCount) and size.factor != 1):
        return None
    rec.freeze_all(x, f"{func.__name__} in {rec.where} gives it to every channel")
    with rec.inside(opaque=True):
        out: Tensor = func(*args, **kwargs)
    if isinstance(size, ChannelCount):
        ids = size.ids
    else:
        ids = rec.channels.allocate(plain(size))
        rec.claim(size.terms, ids, f"{func.__name__} in {rec.where} spreads it over other channels")
    rec.set(out, along(ids.repeat_interleave(old), axis, out.shape))
    mark(rec, [out])
    return out


def _is_width(size: Any) -> bool:
    return isinstance(size, Size) and is_width(size.terms)


def has_one_head(rec: Recorder, x: Tensor, count: Any) -> bool:
    """Is `count` a number of heads, or of those of queries to each of keys, and does `x` have no heads of its own?"""
    if not isinstance(count, Size) or not all(counts_heads((term,)) for term in count.terms):
        return False
    return len(count.terms) == 1 or not set(rec.varying(x)) - {x.dim() - 1}


def has_few_heads(rec: Recorder, x: Tensor, count: Any, axis: int) -> bool:
    """Is `count` how many heads of queries each of the fewer heads of `x` serves?"""
    heads = isinstance(count, Size) and all(counts_heads((term,)) for term in count.terms)
    return heads and x.shape[axis] < plain(count) and rec.varying(x) == [axis]


def for_every_head(rec: Recorder, x: Tensor, out: Tensor, axis: int, count: Size, name: str) -> None:
    """What has one head becomes that of each of several; where it has some, as many heads go for each of them."""
    ids = rec.channels.allocate(plain(count))
    rec.freeze(rec.ids(x), f"{name} in {rec.where} gives it to every head")
    rec.claim(count.terms, ids, f"{name} in {rec.where} spreads it over other channels")
    rec.set(out, along(ids.repeat(out.shape[axis] // len(ids)), axis, out.shape))
    if x.shape[axis] == 1:
        mark(rec, [out])


def repeat_interleave(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Tensor:
    """x.repeat_interleave(number, dim): one head becomes that of each of several.

    Of grouped queries, as many go for each head of keys where these are fewer; else they go with their head.
    """
    a = bind(("input", "repeats", "dim", "output_size"), args, kwargs)
    x, repeats, dim = a["input"], a["repeats"], a["dim"]
    follows = isinstance(dim, int) and (
        has_one_head(rec, x, repeats) if x.shape[dim] == 1 else has_few_heads(rec, x, repeats, dim % x.dim())
    )
    with rec.inside(opaque=follows):
        out: Tensor = func(*args, **kwargs)
    if follows:
        for_every_head(rec, x, out, dim % x.dim(), repeats, func.__name__)
    elif isinstance(repeats, (ChannelCount, Size)):
        repeats.lose(func.__name__)
    return out


def matmul(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Tensor:
    """A @ b: what has one head is spread over the heads of the other (multi-query attention); these go, it stays."""
    rest = bind(("input", "other"), args, kwargs)
    pair = [rest.pop("input"), rest.pop("other")]
    with rec.inside(checked=True):
        for n, (few, many) in enumerate((pair, pair[::-1])):
            if may_have_heads(rec, few) and may_have_heads(rec, many):
                heads = [d - many.dim() for d in rec.varying(many)]
                if len(heads) == 1 and heads[0] < -2 and _old_size(few, heads[0]) == 1:
                    pair[n] = beside_heads(rec, few, line_of(rec.ids(many), heads[0]), heads[0])
        out: Tensor = func(*pair, **rest)
    return out


def may_have_heads(rec: Recorder, x: Any) -> bool:
    """An activation; of a parameter, or what it has been turned into, a product may make a layer."""
    return isinstance(x, Tensor) and x.dim() > 2 and id(x) not in rec.names and id(x) not in rec.views


def beside_heads(rec: Recorder, x: Tensor, heads: Tensor, axis: int) -> Tensor:
    """A tensor without heads as it is multiplied with one that has some, on this axis from the end."""
    rec.freeze(rec.ids(x), f"a matrix product in {rec.where} gives it to every head")
    ones = [1] * (-axis - x.dim())
    sizes = [*ones, *x.shape]
    sizes[axis] = len(heads)
    out = x.expand(sizes)
    rec.set(out, along(heads, axis, out.shape))
    return out


def _old_size(x: Tensor, d: int) -> int:
    return x.shape[d] if -d <= x.dim() else 1


T = torch.Tensor
FUNCTIONS: dict[Any, Any] = {
    **dict.fromkeys([T.expand, T.expand_as, T.repeat], spread),
    **dict.fromkeys([T.matmul, torch.matmul, T.__matmul__], matmul),
    **dict.fromkeys([T.repeat_interleave, torch.repeat_interleave], repeat_interleave),
}
