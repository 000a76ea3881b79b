"""Rows that are gathered, scattered and added up by index (graphs, mixtures of experts): channels pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from search_spaces.companions import constant, squeeze, varying
from search_spaces.recorder import Recorder, name_of
from search_spaces.rules.arithmetic import unite
from search_spaces.rules.reductions import level

aten = torch.ops.aten
BY_ROW = {aten.index_add, aten.index_add_, aten.index_copy, aten.index_copy_, aten.index_reduce, aten.index_reduce_}
INTO = {aten.scatter, aten.scatter_, aten.scatter_add, aten.scatter_add_, aten.scatter_reduce, aten.scatter_reduce_}


def scatter(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """x.index_add(dim, index, source), x.scatter(dim, index, source) ...: source and target have the same channels.

    An index for every single value is as wide as they are; one for every row only says where it goes.
    """
    x, dim, index, *source = args
    placed = [x, *(s for s in source[:1] if isinstance(s, Tensor))]
    if func.overloadpacket in BY_ROW:
        rec.freeze_all(index, f"it chooses where {name_of(func)} puts what in {rec.where}")
    else:
        placed.append(index)
    rec.set(out, joined(rec, placed, dim, out, f"{name_of(func)} in {rec.where}"))


def gather(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """x.gather(dim, index): the index is as wide as what is taken."""
    x, dim, index = args[:3]
    rec.set(out, joined(rec, [x, index], dim, out, f"{name_of(func)} in {rec.where}"))


def joined(rec: Recorder, tensors: list[Tensor], dim: int, out: Tensor, why: str) -> Tensor | None:
    """The companion of what has the channels of all of these; `dim` is the axis along which places are chosen."""
    dim %= max(out.dim(), 1)
    found: Tensor | None = None
    for tensor in tensors:
        ids = level(rec, rec.ids(tensor), {dim}, f"{why} mixes its channels")
        ids = constant(tensor.shape) if ids is None else ids
        if any(tensor.shape[d] != out.shape[d] for d in varying(ids)):
            rec.freeze(ids, f"{why} takes a part of its channels")
            continue
        small = squeeze(ids)
        small = small.narrow(dim, 0, 1).expand([n if small.shape[d] > 1 else 1 for d, n in enumerate(small.shape)])
        shape = [1 if d == dim else n for d, n in enumerate(out.shape)]
        if any(small.shape[d] not in (1, n) for d, n in enumerate(shape)):
            return None
        small = small.expand(shape)
        if found is None:
            found = small
        elif varying(found) or varying(small):
            found = unite(rec, found, small)
    return None if found is None else found.expand(out.shape)


OPERATORS: dict[Any, Any] = {**dict.fromkeys(BY_ROW | INTO, scatter), aten.gather: gather}
