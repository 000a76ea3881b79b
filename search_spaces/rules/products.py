"""Matrix products: ids along the contracted axis are united, the surviving axes keep theirs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from search_spaces.companions import along, constant, line_of, varying
from search_spaces.recorder import Recorder, name_of
from search_spaces.rules import reductions
from search_spaces.rules.arithmetic import adopt, combine
from search_spaces.rules.multiply_adds import multiply_adds
from search_spaces.rules.parameters import times_view

aten = torch.ops.aten
DISTANCES = {aten._cdist_forward, aten._euclidean_dist}  # torch.cdist
# What `Recorder.products` counts, beside attention and reductions; the masked network counts the same (masking.py).
PRODUCTS = {aten.mm, aten.bmm, aten.addmm, aten.baddbmm, aten.mv, *DISTANCES}


def numbers(func: Any, args: Any) -> int:
    """How many places of `Recorder.products` a call takes."""
    return 1 if func.overloadpacket in PRODUCTS else reductions.numbers(func, args)


def product(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """mm, bmm, addmm, baddbmm, mv."""
    bias, (a, b) = (args[0], args[1:3]) if func.overloadpacket in (aten.addmm, aten.baddbmm) else (None, args[:2])
    result: Tensor | None = None
    if b.dim() > 1 and (view := rec.view_of(b)) is not None:
        made = times_view(rec, a, view, view.axes[-2], view.axes[-1], out.numel() / out.shape[-1] / rec.batch)
        result = None if made is None else along(made, -1, out.shape)
    elif b.dim() > 1 and rec.varying(b) == [b.dim() - 2] and (view := rec.view_of(a)) is not None:
        rows = out.numel() / out.shape[-2] / rec.batch
        made = times_view(rec, b, view, view.axes[-1], view.axes[-2], rows, at=-2)
        result = None if made is None else along(made, -2, out.shape)
    rec.set(out, times(rec, a, b, out) if result is None else result)
    if bias is not None:
        rec.set(out, combine(rec, [out, bias], out.shape))


def times(rec: Recorder, left: Tensor, right: Tensor, out: Tensor) -> Tensor:
    """The companion of a @ b, [batch, rows, inner] @ [batch, inner, columns]; of a vector [inner], one column."""
    a, b = (rec.channels.canonical(rec.ids(t)) for t in (left, right))
    b = b[:, None] if b.dim() == 1 else b
    a, b = (ids if ids.dim() == 3 else ids[None] for ids in (a, b))
    batch, rows, inner = a.shape
    shape = (batch, rows, b.shape[2])
    in_a, in_b = varying(a), varying(b)
    result: Tensor | None = None
    sides: dict[str, Tensor | int] = {"reads": inner, "makes": 1}
    why = f"a matrix product in {rec.where} mixes it with channels of another axis"
    if in_a and in_b and not (set(in_a) <= {0, 2} and set(in_b) <= {0, 1} and (2 in in_a) == (1 in in_b)):
        for side, vary in ((a, in_a), (b, in_b)):
            if rec.is_bare(side):  # a table beside the channels keeps its size
                rec.misread(side, why)
                vary.clear()
    for side, mine, inside, others in ((a, in_a, 2, in_b), (b, in_b, 1, in_a)):
        if mine == [inside] and others and 3 - inside not in others:  # it meets a constant; the others survive
            rec.freeze(side, why)
            mine.clear()
    if 2 in in_a or 1 in in_b:
        if 1 in in_a or 2 in in_b:
            rec.freeze(a, why)
            rec.freeze(b, why)
        else:
            result = contract(rec, a[:, 0, :], b[:, :, 0], shape, sides, why)
    elif in_a == in_b == [0] or (in_a and in_b and 0 in in_a and 0 in in_b and [0] in (in_a, in_b)):
        # Whole blocks of the batch, e.g. attention heads.
        block, other = (a, b) if in_a == [0] else (b, a)
        heads = line_of(block, 0)
        rec.channels.unite(block[:, :1, :1].expand_as(other), other, why)
        result, sides["makes"] = along(heads, 0, shape), heads
    elif bool(in_a) != bool(in_b) and len(in_a or in_b) == 1 and (in_a or in_b) != [0]:
        ids, axis = (a, 1) if in_a else (b, 2)
        line = line_of(ids, axis)
        result, sides["makes"] = along(line, axis, shape), line
    elif in_a == [1] and in_b == [2]:  # an outer product: the fewer stay
        ids, axis, few = (a, 1, b) if rec.made_with(a) >= rec.made_with(b) else (b, 2, a)
        rec.freeze(few, why)
        line = line_of(ids, axis)
        result, sides["makes"] = along(line, axis, shape), line
    elif in_a or in_b:
        why = why if in_a and in_b else f"{rec.where} multiplies it with a constant of fixed size"
        rec.freeze(a, why)
        rec.freeze(b, why)
    wide, tall = (v if isinstance(v, int) else len(v) for v in sides.values())
    pixels = batch * rows * shape[2] * inner / wide / tall / rec.batch
    rec.multiplies("matmul", kernel=1, pixels=pixels, reads=sides["reads"], makes=sides["makes"])
    return (constant(shape) if result is None else result).reshape(out.shape)


def contract(
    rec: Recorder, a: Tensor, b: Tensor, shape: tuple[int, ...], sides: dict[str, Tensor | int], why: str
) -> Tensor | None:
    """Channels on the contracted axis of a product, [batch, inner] on both sides: the result has none of them left."""
    rec.channels.unite(a, b, f"{rec.where} multiplies it with a constant of fixed size")
    joint = rec.channels.canonical(a)
    axes = varying(joint)
    if axes == [0]:  # every head contracts its own channels: the heads survive
        heads = joint[:, 0]
        sides["makes"] = heads
        return along(heads, 0, shape)
    if 0 in axes:
        rec.freeze(joint, why)
    else:
        sides["reads"] = joint[0]
        rec.contracts(joint[0])
    return None


def distance(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """torch.cdist(a, b), [..., rows, inner] and [..., columns, inner]: over the kept channels of both (codebooks)."""
    why = f"distances in {rec.where} are taken from what keeps its size"
    parameters = [t for t in args[:2] if id(t) in rec.names]
    sides = [t for t in args[:2] if id(t) not in rec.names]
    if not sides or any(id(t) in rec.views or rec.varying(t) != [t.dim() - 1] for t in sides):
        rec.freeze_all(args[:2], why)
        return
    line, *others = [rec.read(t, -1) for t in sides]
    for other in others:
        rec.channels.unite(line, other, why)
    for parameter in parameters:
        adopt(rec, rec.names[id(parameter)], parameter, along(line, -1, parameter.shape))
    rec.contracts(line)


def grouped(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Tensor) -> None:
    """Each row [rows, inner] times the weight of its expert, one of [experts, inner, columns].

    PyTorch wants rows that begin at multiples of 16 bytes: channels go in blocks of as many.
    """
    x, weight, *rest = args
    view = rec.view_of(weight) if x.dim() == 2 and weight.dim() == 3 and len(rest) < 2 else None
    made: Tensor | None = None
    if view is not None and not view.computed and kwargs.get("bias") is None:
        made = times_view(rec, x, view, view.axes[-2], view.axes[-1], len(x) / rec.batch)
    if made is None:
        rec.freeze_all((args, kwargs), f"{name_of(func)} in {rec.where} is no product with weights of experts")
        rec.multiplies("fixed", kernel=1, pixels=multiply_adds(func, args, out) / rec.batch, reads=1, makes=1)
        return
    rec.freeze_all((rest, kwargs), f"it chooses the expert in {rec.where}")
    for line in [rec.read(x, -1), *([made] if weight.stride(-1) == 1 else [])]:
        number = 8 if len(line) % 8 == 0 else 16 // x.element_size()  # also in half precision, if it is so now
        blocks = line.reshape(-1, number)
        rec.channels.unite(blocks[:, :1].expand_as(blocks), blocks, f"{name_of(func)} in {rec.where} takes blocks")
    rec.set(out, along(made, -1, out.shape))


GROUPED = [getattr(aten, name) for name in ("_grouped_mm",) if hasattr(aten, name)]  # of PyTorch 2.8
OPERATORS: dict[Any, Any] = (
    dict.fromkeys(GROUPED, grouped) | dict.fromkeys(PRODUCTS, product) | dict.fromkeys(DISTANCES, distance)
)
