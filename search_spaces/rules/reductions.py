"""Reductions: means, variances, norms, maxima ..., and what else mixes an axis without weights (softmax).

Over the channels themselves they are a statistic of the *kept* channels, as in layer-norm: hand-written RMS-norms,
global response normalisation, cosine similarity, gates from the mean and the largest channel. The masked network takes
them over the kept ones, too (see masking.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from search_spaces.companions import line_of, squeeze, varying
from search_spaces.contents import is_inexact, tensors_in
from search_spaces.recorder import Recorder, name_of
from search_spaces.rules.layers import bind

aten = torch.ops.aten

NORMS = {aten.norm, aten.linalg_vector_norm}
STATISTICS = {  # of all values along an axis, whatever their order
    aten.mean, aten.sum, aten.amax, aten.amin, aten.max, aten.min, aten.var, aten.std, aten.var_mean, aten.std_mean,
    aten.logsumexp, aten.prod, aten.any, aten.all, aten.median, aten.nansum, aten.count_nonzero, aten.aminmax, *NORMS,
    aten.argmax, aten.argmin,
}  # fmt: skip
SHARES = {aten._softmax, aten._log_softmax, aten._safe_softmax}  # of each value along an axis in all of them
LOSSES = {  # of two tensors of one shape (see losses.py)
    aten.mse_loss, aten.smooth_l1_loss, aten.huber_loss, aten.binary_cross_entropy, aten.soft_margin_loss,
    aten.binary_cross_entropy_with_logits,
}  # fmt: skip
SLIDING = {aten.convolution}  # over the channels (see layers.beside)
ORDERED = {aten.cumsum, aten.cumprod, aten.sort, aten.logcumsumexp}  # keep the shape, and the order matters
NORMALISATIONS = {aten.native_layer_norm, aten.native_group_norm}  # of counted sizes (see normalisations.py)
COUNTED = STATISTICS | LOSSES | SHARES | SLIDING | NORMALISATIONS  # their axes are numbered in `Recorder.products`


def reduction(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Mean, sum, max ... over spatial axes pass the ids on; over channels they leave nothing of any one of them."""
    reduced(rec, func, args, rec.ids(args[0]), axes_of(func, args, kwargs), out)


def reduced(rec: Recorder, func: Any, args: Any, ids: Tensor, dims: list[int], out: Any) -> None:
    """The same of what has the companion `ids`, over these axes."""
    x = args[0]
    if numbers(func, args) and (axis := lone(rec, ids, dims)) is not None:
        line = line_of(ids, axis)
        over_kept(rec, x, axis, line)
        for tensor in tensors_in(out):
            if not is_inexact(tensor):
                rec.guard(tensor, line, f"which of them it is matters in {rec.where}")
        return
    small = level(rec, ids, dims, f"{name_of(func)} over the channels in {rec.where}")
    if small is None:
        return
    for d in sorted(dims, reverse=True):
        small = small.select(d, 0)
    for tensor in tensors_in(out):
        if tensor.shape == small.shape:
            rec.set(tensor, small)
        elif tensor.dim() == x.dim():
            kept = [1 if d in dims else n for d, n in enumerate(x.shape)]
            rec.set(tensor, small.reshape(kept) if small.numel() == tensor.numel() else None)


def share(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Softmax: over the channels each gets its share among the kept ones."""
    ids = rec.ids(args[0])
    axis = lone(rec, ids, axes_of(func, args, kwargs))
    if axis is None:
        across(rec, func, args, kwargs, out)
        return
    over_kept(rec, args[0], axis, line_of(ids, axis))
    rec.set(out, ids)


def across(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Sorting, cumulative sums ...: harmless along axes without channels."""
    why = f"{name_of(func)} over the channels in {rec.where}"
    ids = level(rec, rec.ids(args[0]), axes_of(func, args, kwargs), why)
    for tensor in tensors_in(out):
        rec.set(tensor, ids)


def largest(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """The k largest along an axis without channels (tokens, pixels, points)."""
    x, number = args[0], args[1]
    axis = (args[2] if len(args) > 2 else kwargs.get("dim", -1)) % max(x.dim(), 1)
    ids = level(rec, rec.ids(x), [axis], f"{name_of(func)} over the channels in {rec.where}")
    for tensor in tensors_in(out):
        rec.set(tensor, ids if ids is None or not x.dim() else ids.narrow(axis, 0, number))


def normalize(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Tensor:
    """`F.normalize(x)`: PyTorch spreads the norm over the channels before it divides; here it stays one number."""
    a = bind(("input", "p", "dim", "eps", "out"), args, kwargs)
    x: Tensor = a["input"]
    order, dim, eps = (default if a[k] is None else a[k] for k, default in (("p", 2.0), ("dim", 1), ("eps", 1e-12)))
    length: Tensor = x.norm(order, dim, keepdim=True)
    return x / length.clamp_min(eps)


def over_kept(rec: Recorder, x: Tensor, axis: int, line: Tensor) -> None:
    """What now runs mixes the channels `line` on `axis` of `x`: the axes of `x` are the last ones numbered."""
    rec.contracts(line, back=x.dim() - 1 - axis)


def lone(rec: Recorder, ids: Tensor, dims: Iterable[int]) -> int | None:
    """The axis among `dims` on which all channels lie, if there is just one."""
    vary = varying(ids)
    vary = vary if len(vary) < 2 else varying(rec.channels.canonical(ids))
    return vary[0] if len(vary) == 1 and vary[0] in set(dims) else None


def level(rec: Recorder, ids: Tensor, dims: Iterable[int], why: str) -> Tensor | None:
    """The companion made the same all along `dims`, which an operation mixes.

    Channels that also vary along another axis are tied along `dims` (after a pixel shuffle, say). Those that do not
    are frozen, and there is none.
    """
    vary = set(varying(ids))
    mixed = vary & set(dims)
    if not mixed:
        return ids
    if mixed == vary:
        (rec.misread if rec.is_bare(ids) else rec.freeze)(ids, why)
        return None
    for d in mixed:
        small = squeeze(ids)
        first = small.narrow(d, 0, 1)
        rec.channels.unite(first.expand_as(small), small, why)
        ids = first.expand([ids.shape[i] if n == 1 or i == d else n for i, n in enumerate(small.shape)])
    return ids


def axes_of(func: Any, args: Any, kwargs: Any) -> list[int]:
    """The axes a reduction runs over."""
    if func.overloadpacket in LOSSES:
        given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
        return list(range(args[0].dim())) if given.get("reduction", 1) else []
    x, rest = args[0], args[1:]
    if func.overloadpacket in NORMS:
        rest = rest[1:]  # `linalg_vector_norm(x, ord, dim)`: the first number is the order
    dim = kwargs.get("dim")
    if dim is None:
        lists = [r for r in rest if isinstance(r, (list, tuple)) and not isinstance(r, str)]
        ints = [r for r in rest if isinstance(r, int) and not isinstance(r, bool)]
        dim = lists[0] if lists else (ints[:1] or None)
    if dim is None or (isinstance(dim, (list, tuple)) and not dim):
        return list(range(x.dim()))
    return [d % max(x.dim(), 1) for d in ([dim] if isinstance(dim, int) else dim)]


def numbers(func: Any, args: Any) -> int:
    """How many places of `Recorder.products` a call takes: one for each axis of what it reduces; 0 of other calls.

    (Whole numbers are left out: companions are reduced, too.)
    """
    return int(args[0].dim()) if func.overloadpacket in COUNTED and is_inexact(args[0]) else 0


FUNCTIONS: dict[Any, Any] = {functional.normalize: normalize}
OPERATORS: dict[Any, Any] = {
    **dict.fromkeys(STATISTICS, reduction),
    **dict.fromkeys(SHARES, share),
    **dict.fromkeys(ORDERED, across),
    aten.topk: largest,
}
