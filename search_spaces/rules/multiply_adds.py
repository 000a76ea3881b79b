"""Multiply-adds of the operators whose operands cannot shrink: counted as they run.

The formulas are ours, so that no version of PyTorch changes a cost. Operators go by name, since some exist on some
devices and in some versions only. Letters: [*, L, E] queries, [*, S, E] keys, [*, S, V] values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor


def product(a: Tensor, b: Tensor) -> int:
    """`[*, n, k] @ [*, k, m]` or `[*, k] @ [k]`."""
    return a.numel() * (b.shape[-1] if b.dim() > 1 else 1)


def grouped_product(a: Tensor, b: Tensor) -> int:
    """One product for each group; where only the left side is stacked, each takes its share of the right one."""
    return product(a, b) // (a.shape[0] if a.dim() > b.dim() else 1)


def linear(x: Tensor, weight: Tensor) -> int:
    """`[*, in] @ [out, in]^T`."""
    return x.numel() * weight.shape[0]


def bilinear(weight: Tensor, right: Tensor, out: Tensor) -> int:
    """`(x W_k) y` for every k: `weight` is [out, left, right]."""
    return out.numel() * (weight.shape[1] + 1) * right.shape[-1]


def convolution(x: Tensor, weight: Tensor, out: Tensor, *, transposed: bool = False) -> int:
    """Every output (transposed: every input) meets one filter, `weight[0]`."""
    return (x if transposed else out).numel() * weight[0].numel()


def attention(q: Tensor, k: Tensor, v: Tensor) -> int:
    """`softmax(q k^T) v` of every query head; what a mask hides is counted, as it is in two plain products."""
    return math.prod(q.shape[:-1]) * k.shape[-2] * (q.shape[-1] + v.shape[-1])


def packed_attention(q: Tensor, k: Tensor, v: Tensor, ends_q: Tensor | None, ends_k: Tensor | None) -> int:
    """The same of [N, L, heads, E], or of sequences one after another, [tokens, heads, E], that end at `ends_q`."""
    if ends_q is None:
        return attention(*(t.transpose(1, 2) for t in (q, k, v)))
    pairs = int((ends_q.diff() * (ends_q if ends_k is None else ends_k).diff()).sum())
    return q.shape[-2] * pairs * (q.shape[-1] + v.shape[-1])


def multihead_attention(q: Tensor, k: Tensor, v: Tensor, project_in: Tensor, project_out: Tensor) -> int:
    """nn.MultiheadAttention as one operator, [N, L, E]; its heads together are as wide as one head of E."""
    projected = sum(math.prod(t.shape[:-1]) for t in (q, k, v)) * project_in.numel() // 3
    return projected + attention(q, k, v) + linear(q, project_out)


def encoder_layer(x: Tensor, project_in: Tensor, project_out: Tensor, wide: Tensor, narrow: Tensor) -> int:
    """nn.TransformerEncoderLayer as one operator, [N, L, E]."""
    tokens = math.prod(x.shape[:-1])
    return multihead_attention(x, x, x, project_in, project_out) + tokens * (wide.numel() + narrow.numel())


def recurrence(x: Tensor, weights: Sequence[Tensor]) -> int:
    """Every step of [*, features] meets every matrix once."""
    return math.prod(x.shape[:-1]) * sum(w.numel() for w in weights if w.dim() == 2)


Formula = Callable[[Any, Any], int]  # of the operator's arguments and its result


def _named(names: str, formula: Formula) -> dict[str, Formula]:
    return {name if "::" in name else f"aten::{name}": formula for name in names.split()}


FORMULAS: dict[str, Formula] = {
    **_named("mm bmm mv _int_mm _scaled_mm _scaled_mm_v2", lambda a, out: product(a[0], a[1])),
    # Of one number each it is no product of vectors; PyTorch runs such ones while it imports its compiler (2.6 did).
    **_named("dot vdot", lambda a, out: a[0].numel() if a[0].numel() > 1 else 0),
    **_named("addmm baddbmm addbmm addmv _addmm_activation", lambda a, out: product(a[1], a[2])),
    **_named("_grouped_mm _scaled_grouped_mm _scaled_grouped_mm_v2", lambda a, out: grouped_product(a[0], a[1])),
    **_named("mkldnn_linear _weight_int8pack_mm", lambda a, out: linear(a[0], a[1])),
    **_named("_trilinear", lambda a, out: bilinear(a[1], a[2], out)),
    **_named("convolution convolution_overrideable", lambda a, out: convolution(a[0], a[1], out, transposed=a[6])),
    **_named("torchvision::deform_conv2d", lambda a, out: convolution(a[0], a[1], out)),
    **_named("conv_tbc", lambda a, out: convolution(a[0], a[1].movedim(-1, 0), out)),  # [kernel, in, out]
    **_named(
        "_scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu"
        " _scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention"
        " _scaled_dot_product_fused_attention_overrideable _scaled_dot_product_attention_math"
        " _scaled_dot_product_attention_math_for_mps",
        lambda a, out: attention(*a[:3]),
    ),
    **_named("_flash_attention_forward torch_attn::_varlen_attn", lambda a, out: packed_attention(*a[:5])),
    **_named("_efficient_attention_forward", lambda a, out: packed_attention(a[0], a[1], a[2], a[4], a[5])),
    **_named("_native_multi_head_attention", lambda a, out: multihead_attention(a[0], a[1], a[2], a[5], a[7])),
    **_named("_transformer_encoder_layer_fwd", lambda a, out: encoder_layer(a[0], a[3], a[5], a[14], a[16])),
    **_named("mkldnn_rnn_layer", lambda a, out: recurrence(a[0], a[1:3])),
    **_named("_cudnn_rnn miopen_rnn", lambda a, out: recurrence(a[0], a[1])),
    **_named("_lstm_mps", lambda a, out: recurrence(a[0], a[2])),
}


def multiply_adds(func: Any, args: Any, out: Any) -> int:
    """Multiply-adds of one call of an ATen operator; 0 of one that multiplies nothing or that is not known."""
    formula = FORMULAS.get(func._schema.name)
    return formula(args, out) if formula is not None else 0
