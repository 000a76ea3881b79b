"""nn.MultiheadAttention: whole heads go, and the channels that it reads and makes."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_spaces.adapters.adapter import Adapter, Call, Cut
from search_spaces.companions import along
from search_spaces.recorder import Recorder
from search_spaces.rules.layers import add_bias

SIGNATURE = inspect.signature(nn.MultiheadAttention.forward)


class PrunableAttention(nn.MultiheadAttention):
    """nn.MultiheadAttention whose heads together may be narrower or wider than what it reads and makes.

    The scale is that of the dense network's heads. Letters: [N, L, E] queries, [N, S, E] keys, H heads, D their width.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """See nn.MultiheadAttention."""
        if self._qkv_same_embed_dim and not self.training and torch.backends.mha.get_fastpath_enabled():
            return super().forward(
                query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
            )
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        batched = query.dim() == 3
        x = [t if batched else t.unsqueeze(0) for t in (query, key, value)]
        if batched and not self.batch_first:
            x = [t.transpose(0, 1) for t in x]
        q, k, v = (self._heads(t) for t in self._projected(*x))
        causal = is_causal and key_padding_mask is None and not need_weights
        mask = None if causal else self._mask(attn_mask, key_padding_mask, q)
        weights = None
        rate = self.dropout if self.training else 0.0
        if need_weights:
            scores = (q * self._scale) @ k.transpose(-2, -1)
            weights = (scores if mask is None else scores + mask).softmax(-1)
            weights = functional.dropout(weights, rate, self.training)
            out = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            out = functional.scaled_dot_product_attention(
                q, k, v, mask, dropout_p=rate, is_causal=causal, scale=self._scale
            )
        out = self.out_proj(out.transpose(1, 2).flatten(2))
        if not batched:
            return out.squeeze(0), None if weights is None else weights.squeeze(0)
        return out if self.batch_first else out.transpose(0, 1), weights

    @property
    def _scale(self) -> float:
        return 1 / math.sqrt(self.head_dim)

    def _projected(self, *x: Tensor) -> list[Tensor]:
        """Queries, keys and values before they are split into heads, [N, L, H * D]."""
        biases = [None] * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        weights: Any = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        if self.in_proj_weight is not None:
            weights = self.in_proj_weight.chunk(3)
        q, k, v = (functional.linear(*parts) for parts in zip(x, weights, biases, strict=True))
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.expand(len(k), -1, -1)], 1)
            v = torch.cat([v, self.bias_v.expand(len(v), -1, -1)], 1)
        if self.add_zero_attn:
            k, v = (functional.pad(t, (0, 0, 0, 1)) for t in (k, v))
        return [q, k, v]

    def _heads(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (-1, self.head_dim))  # type: ignore[no-untyped-call]
        return heads.transpose(1, 2)

    def _mask(self, mask: Tensor | None, padding: Tensor | None, q: Tensor) -> Tensor | None:
        """What is added to the scores, [N or 1, H or 1, L, S]."""
        added = None
        if mask is not None:
            mask = self._additive(mask, q)
            added = mask.unflatten(0, (-1, self.num_heads)) if mask.dim() == 3 else mask[None, None]
        if padding is not None:
            hidden = self._additive(padding if padding.dim() == 2 else padding[None], q)[:, None, None]
            added = hidden if added is None else added + hidden
        more = (self.bias_k is not None) + bool(self.add_zero_attn)
        return functional.pad(added, (0, more)) if added is not None and more else added

    @staticmethod
    def _additive(mask: Tensor, q: Tensor) -> Tensor:
        return mask if mask.dtype != torch.bool else torch.zeros_like(mask, dtype=q.dtype).masked_fill(mask, -math.inf)


class MultiheadAttentionAdapter(Adapter):
    """Whole heads, and the channels that it reads and makes (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762).

    The rows of one head in the projections of queries, keys and values, and its columns in the output projection, are
    one unit. Weights that are asked for per head carry the heads; the average over heads freezes them where it is used.
    """

    def handles(self, module: nn.Module) -> bool:
        """Subclasses may compute something else."""
        return type(module) in (nn.MultiheadAttention, PrunableAttention)

    def trace(self, rec: Recorder, call: Call) -> None:
        """See `Adapter.trace`."""
        given = SIGNATURE.bind(call.module, *call.args, **call.kwargs)
        given.apply_defaults()
        a, module = given.arguments, call.module
        assert isinstance(module, nn.MultiheadAttention)
        x = [a["query"], a["key"], a["value"]]
        read = [rec.read(t, -1) for t in x]
        makes, heads = self._projections(rec, call, read, module.num_heads)
        rows = makes[0]
        for t, ids, made in zip(x, read, makes, strict=True):
            tokens = t.numel() / t.shape[-1] / rec.batch
            rec.multiplies("linear", kernel=1, pixels=tokens, reads=ids, makes=made)
        for bias in ("bias_k", "bias_v"):
            if call.tensor(bias) is not None:
                rec.register(call.within(bias), 2, rows, "free")
        if a["attn_mask"] is not None and a["attn_mask"].dim() == 3:
            rec.freeze(heads, f"the mask of attention in {rec.where} has a fixed number of heads")
        rec.freeze_all([a["attn_mask"], a["key_padding_mask"]], f"it masks attention in {rec.where}")
        sequence = 0 if x[0].dim() == 2 or not module.batch_first else 1
        keys = x[1].shape[sequence] + (module.bias_k is not None) + bool(module.add_zero_attn)
        queries = x[0].numel() / x[0].shape[-1] / rec.batch
        products = 2 * queries * keys * len(rows) / len(heads)  # of one head
        rec.multiplies("matmul", kernel=1, pixels=products, reads=1, makes=heads)
        rec.heads.append(heads)
        name = call.within("out_proj.weight")
        rec.register(name, 1, rows, "in")
        made = rec.makes(name, 0, module.out_proj.weight.shape[0])
        add_bias(rec, module.out_proj.bias, made)
        rec.multiplies("linear", kernel=1, pixels=queries, reads=rows, makes=made, owner=call.within("out_proj"))
        out, weights = call.output
        rec.set(out, along(made, -1, out.shape))
        if weights is None:
            return
        if a["average_attn_weights"]:
            rec.guard(weights, heads, f"the attention of {rec.where}, averaged over its heads, is used")
        else:
            rec.set(weights, along(heads, weights.dim() - 3, weights.shape))

    def exit(self, module: nn.Module) -> tuple[str, int, str | None] | None:
        """See `Adapter.exit`."""
        assert isinstance(module, nn.MultiheadAttention)
        return "out_proj.weight", 1, None if module.out_proj.bias is None else "out_proj.bias"

    @staticmethod
    def _projections(rec: Recorder, call: Call, read: list[Tensor], heads: int) -> tuple[list[Tensor], Tensor]:
        """The ids that queries, keys and values get, [H * D] each, and those of the heads, [H]."""
        fused, bias = call.tensor("in_proj_weight"), call.tensor("in_proj_bias")
        if fused is not None:
            name = call.within("in_proj_weight")
            for ids in read:
                rec.register(name, 1, ids, "in")
            made = list(rec.makes(name, 0, len(fused)).chunk(3))
        else:
            made = []
            for part, ids in zip("qkv", read, strict=True):
                weight = call.tensor(f"{part}_proj_weight")
                assert weight is not None
                rec.register(call.within(f"{part}_proj_weight"), 1, ids, "in")
                made.append(rec.makes(call.within(f"{part}_proj_weight"), 0, len(weight)))
        rows = torch.stack(made).reshape(3, heads, -1)
        rec.channels.unite(rows[:1, :, :1].expand_as(rows), rows, "")
        if bias is not None:
            rec.register(call.within("in_proj_bias"), 0, torch.cat(made), "out")
        return made, rows[0, :, 0]

    def adapt(self, module: nn.Module) -> None:
        """Sizes that differ; no fused operation, which knows one size only, until `fit` says that it is the same."""
        module.__class__ = PrunableAttention
        module._qkv_same_embed_dim = False  # type: ignore[assignment]

    def fit(self, module: nn.Module, cut: Cut) -> None:
        """See `Adapter.fit`."""
        assert isinstance(module, PrunableAttention)
        module.embed_dim, inner = module.out_proj.weight.shape
        fused = module.in_proj_weight is not None
        keys, values = (module.in_proj_weight,) * 2 if fused else (module.k_proj_weight, module.v_proj_weight)
        module.kdim, module.vdim = keys.shape[1], values.shape[1]
        module.num_heads = inner // module.head_dim
        module._qkv_same_embed_dim = fused and module.kdim == module.embed_dim == inner
