"""Attention and recurrence: fused functions, and modules whose insides are not traced."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_spaces.companions import along, line_of, varying
from search_spaces.recorder import Recorder
from search_spaces.rules.arithmetic import adopt
from search_spaces.rules.layers import bind

# Modules that hard-code their sizes: their inputs are frozen, their outputs are constants.
OPAQUE_MODULES: dict[type[nn.Module], str] = {
    nn.MultiheadAttention: "it computes something of its own on nn.MultiheadAttention",
    nn.RNNBase: "it computes something of its own on packed gates",
    nn.RNNCellBase: "it computes something of its own on packed gates",
    nn.EmbeddingBag: "it pools inside",
    nn.Bilinear: "it multiplies two inputs",
    torch.jit.ScriptModule: "its code is TorchScript, which cannot be followed",
}
ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")


def scaled_dot_product_attention(rec: Recorder, func: Any, args: Any, kwargs: Any) -> Tensor:
    """softmax(q k^T / sqrt(E) + mask) v: whole heads may go; their width only where the scale is fixed.

    Grouped queries: a head of keys and values goes with the query heads that it serves, or as many of them go for each
    head of keys: whichever makes the smaller units.
    """
    a = bind(ARGUMENTS, args, kwargs)
    q, k, v, mask = a["query"], a["key"], a["value"], a["attn_mask"]
    number = rec.products[rec.path[-1]] + 1
    with rec.inside(opaque=True):
        out: Tensor = func(*args, **kwargs)
    rec.products[rec.path[-1]] = number  # it counts as one product, whatever PyTorch made of it (see masking.py)
    canonical = rec.channels.canonical
    ids = [canonical(rec.ids(t)) for t in (q, k, v)]
    vary = [varying(i) for i in ids]
    head = q.dim() - 3  # [..., H, L, E], or further in front
    if not a["enable_gqa"] and len(vary[0]) == 1 and vary[0][0] < head and q.dim() == k.dim() == v.dim():
        head = vary[0][0]
    if head >= 0 and vary[0] == [head]:  # one head of keys for all queries: whole heads of queries go, keys stay
        for n in (1, 2):
            if (k, v)[n - 1].shape[head] == 1 and vary[n]:
                rec.freeze(ids[n], f"all heads of attention in {rec.where} read it, and its width is that of a head")
                vary[n] = []
    alike = bool(a["enable_gqa"]) and vary[0] == [head] and k.shape[head] < q.shape[head] // k.shape[head]
    if alike:
        line = line_of(ids[0], head).reshape(k.shape[head], -1)
        rec.channels.unite(line[:1].expand_as(line), line, f"attention in {rec.where} meets a fixed number of heads")
        ids[0] = canonical(rec.ids(q))
        for n in (1, 2):
            rec.freeze(ids[n], f"attention in {rec.where} keeps all heads of keys, and as many queries of each")
            vary[n] = []
    why = f"attention in {rec.where} mixes it with channels of another axis"
    products = [(q.shape[-2] * k.shape[-2], q.shape[-1]), (q.shape[-2] * v.shape[-1], k.shape[-2])]
    total = sum(p * c for p, c in products) * out.shape[:-2].numel() / rec.batch
    if all(x in ([], [head]) for x in vary) and head >= 0 and any(vary):
        shared = q.shape[head] // k.shape[head] if a["enable_gqa"] else 1  # query heads of one head of keys
        lines = [
            line_of(i, head).repeat_interleave(1 if n == 0 else shared)
            for n, (i, t) in enumerate(zip(ids, (q, k, v), strict=True))
            if t.shape[head] > 1 and (n == 0 or not alike)
        ]
        for line in lines[1:]:
            rec.channels.unite(lines[0], line, f"attention in {rec.where} meets a fixed number of heads")
        masked(rec, mask, lines[0], q.dim() - head)
        rec.heads.append(lines[0])
        rec.set(out, along(lines[0], head, out.shape))
        rec.multiplies("matmul", kernel=1, pixels=total / len(lines[0]), reads=1, makes=lines[0])
        return out
    if isinstance(mask, Tensor):
        rec.freeze_all(mask, why)
    if a["scale"] is None or any(set(x) - {q.dim() - 1} for x in vary):
        for i in ids:
            rec.freeze(i, f"attention in {rec.where} scales by its size" if a["scale"] is None else why)
        rec.multiplies("fixed", kernel=1, pixels=total, reads=1, makes=1)
        return out
    inner = rec.read(q, -1)
    rec.channels.unite(inner, rec.read(k, -1), why)
    rec.contracts(inner)
    value = rec.read(v, -1)
    rec.set(out, along(value, -1, out.shape))
    rows = out.numel() / out.shape[-1] / rec.batch
    rec.multiplies("matmul", kernel=1, pixels=rows * k.shape[-2], reads=inner, makes=1)
    rec.multiplies("matmul", kernel=1, pixels=rows * k.shape[-2], reads=1, makes=value)
    return out


def masked(rec: Recorder, mask: Tensor | None, line: Tensor, from_end: int) -> None:
    """The mask or bias [..., H or 1, ..., L, S] of heads that may go: one entry for each, or one for all."""
    if mask is None:
        return
    axis = mask.dim() - from_end
    why = f"the mask of attention in {rec.where} has a fixed number of heads"
    name = rec.names.get(id(mask))
    if axis < 0 or mask.shape[axis] == 1:
        rec.freeze_all(mask, why)
    elif name is not None:
        adopt(rec, name, mask, along(line, axis, mask.shape))
    elif set(varying(rec.ids(mask))) - {axis}:
        rec.freeze_all(mask, why)
        rec.freeze(line, why)
    else:
        rec.channels.unite(line, line_of(rec.ids(mask), axis), why)


FUNCTIONS: dict[Any, Any] = {functional.scaled_dot_product_attention: scaled_dot_product_attention}
