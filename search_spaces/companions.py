"""Companions: int64 tensors that say which channel id lives at each position of an activation.

One has the shape of its activation, and is expanded along every axis on which nothing changes, so that it costs no
memory; what is done to it here keeps it so.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from search_spaces.operators import quiet, quietly

VARYING = "_varying"  # of a companion: what `varying` has found


def squeeze(ids: Tensor) -> Tensor:
    """Keep one position along every expanded axis (a view)."""
    shape, strides = ids.shape, ids.stride()
    if 0 not in strides:
        return ids
    small = [1 if s == 0 and n > 1 else n for s, n in zip(strides, shape, strict=True)]
    return ids.as_strided(small, strides)


@quietly
def folded(ids: Tensor, shape: Sequence[int]) -> Tensor:
    """`ids.reshape(shape)` in which axes along which all is constant stay expanded."""
    small = squeeze(ids)
    if small is ids or not ids.numel():
        return ids.reshape(tuple(shape))
    whole: list[int] = []  # old axes as they are, but for the constant ones that become constant ones
    folds: list[int] = []
    old = new = 0
    while old < ids.dim() or new < len(shape):
        begin, start = old, new
        left, right = 1, 1
        while True:  # the fewest axes of both that hold as many
            if old < ids.dim() and (left <= right or new == len(shape)):
                left, old = left * ids.shape[old], old + 1
            elif new < len(shape):
                right, new = right * shape[new], new + 1
            if left == right and (old > begin or new > start):
                break
        constant = all(n == 1 for n in small.shape[begin:old])
        whole += [1] * (old - begin) if constant else ids.shape[begin:old]
        folds += [1] * (new - start) if constant else shape[start:new]
    return small.expand(whole).reshape(folds).expand(tuple(shape))


@quietly
def constant(shape: Sequence[int]) -> Tensor:
    """The companion of a constant."""
    return torch.zeros((), dtype=torch.int64).expand(tuple(shape))


@quietly
def line_of(ids: Tensor, axis: int) -> Tensor:
    """The ids along `axis` at the first position of all others, [n]."""
    line = squeeze(ids).movedim(axis, 0)
    line = line.reshape(line.shape[0], -1)[:, 0]
    return line.expand(ids.shape[axis]) if line.numel() == 1 else line


def varying(ids: Tensor) -> list[int]:
    """Axes along which a companion is not constant."""
    known: list[int] | None = getattr(ids, VARYING, None)  # it never changes
    if known is None:
        with quiet():
            small = squeeze(ids)
            known = [d for d, n in enumerate(small.shape) if n > 1 and _varies(small, d)]
        setattr(ids, VARYING, known)
    return known.copy()


def _varies(ids: Tensor, axis: int) -> bool:
    """Its second position tells of most axes; where it is the same, all the others are asked."""
    first = ids.narrow(axis, 0, 1)
    return not torch.equal(ids.narrow(axis, 1, 1), first) or bool((ids != first).any())


@quietly
def tidy(ids: Tensor) -> Tensor:
    """The same companion, expanded again wherever it is constant."""
    small = squeeze(ids)
    for d in sorted((d for d, n in enumerate(small.shape) if n > 1), key=lambda d: -small.shape[d]):
        if not _varies(small, d):
            small = small.narrow(d, 0, 1)
    return small.expand(ids.shape)


@quietly
def along(ids: Tensor, axis: int, shape: Sequence[int]) -> Tensor:
    """The companion of a tensor of `shape` whose ids [n] lie along `axis`."""
    axis %= len(shape)
    return ids.reshape([-1 if d == axis else 1 for d in range(len(shape))]).expand(tuple(shape))
