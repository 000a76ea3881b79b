"""Multiply-adds of what cannot shrink, in every spelling, against numbers worked out by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from objectives import Macs
from search_spaces import trace
from search_spaces.rules.multiply_adds import multiply_adds

N, L, S, E, HEADS = 2, 10, 6, 8, 2
# Per image: three projections 10 * 8 * 24, q k^T and its product with v 10 * 10 * 8 each, projection out 10 * 8 * 8.
SELF_ATTENTION = 1_920 + 1_600 + 640


class Between(nn.Module):
    """Linear(5, 8), a layer whose channels are fixed, Linear(8, 4), Linear(4, 3) on `L` tokens."""

    def __init__(self, function, **parts):
        super().__init__()
        self.enter, self.leave, self.out = nn.Linear(5, E), nn.Linear(E, 4), nn.Linear(4, 3)
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.out(self.leave(self.function(self, self.enter(x))))


AROUND = L * (5 * E + E * 4 + 4 * 3)


def macs(model, example):
    space = trace(model, example)
    return Macs(space)([g.size for g in space.groups])


class Custom(torch.autograd.Function):
    """Attention that nobody can look into."""

    @staticmethod
    def forward(ctx, x):
        return F.scaled_dot_product_attention(x, x, x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def in_heads(x):
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def native(s, x):
    a = s.a
    weights = a.in_proj_weight, a.in_proj_bias, a.out_proj.weight, a.out_proj.bias
    return torch._native_multi_head_attention(x, x, x, E, HEADS, *weights, need_weights=False)[0]


def native_layer(s, x):
    a = s.layer.self_attn
    return torch._transformer_encoder_layer_fwd(
        x, E, HEADS, a.in_proj_weight, a.in_proj_bias, a.out_proj.weight, a.out_proj.bias, False, False, 1e-5,
        s.layer.norm1.weight, s.layer.norm1.bias, s.layer.norm2.weight, s.layer.norm2.bias,
        s.layer.linear1.weight, s.layer.linear1.bias, s.layer.linear2.weight, s.layer.linear2.bias,
    )  # fmt: skip


def mha(**options):
    return nn.MultiheadAttention(E, HEADS, batch_first=True, **options)


SPELLINGS = {
    "module": (lambda s, x: s.a(x, x, x)[0], {"a": mha()}, SELF_ATTENTION),
    "fused": (lambda s, x: s.a(x, x, x, need_weights=False)[0], {"a": mha()}, SELF_ATTENTION),
    "tokens first": (
        lambda s, x: s.a(*[x.transpose(0, 1)] * 3, need_weights=False)[0].transpose(0, 1),
        {"a": nn.MultiheadAttention(E, HEADS)},
        SELF_ATTENTION,
    ),
    "causal": (
        lambda s, x: s.a(x, x, x, need_weights=False, is_causal=True, attn_mask=torch.ones(L, L).triu(1).bool())[0],
        {"a": mha()},
        SELF_ATTENTION,
    ),
    # Six keys of width 3 and values of width 5, both projected to 8.
    "cross": (
        lambda s, x: s.a(x, torch.ones(N, S, 3), torch.ones(N, S, 5), need_weights=False)[0],
        {"a": mha(kdim=3, vdim=5)},
        L * 64 + S * (3 + 5) * 8 + 2 * L * S * 8 + L * 64,
    ),
    "native": (native, {"a": mha()}, SELF_ATTENTION),
    "function": (lambda s, x: F.scaled_dot_product_attention(x, x, x), {}, 2 * L * L * E),
    "heads": (
        lambda s, x: F.scaled_dot_product_attention(*[in_heads(x)] * 3).transpose(1, 2).flatten(2),
        {},
        2 * L * L * E,
    ),
    # Two query heads of width 4 share the first four channels as their keys and values.
    "grouped queries": (
        lambda s, x: F.scaled_dot_product_attention(
            in_heads(x), *[x[:, None, :, :4].contiguous()] * 2, enable_gqa=True
        ).transpose(1, 2).flatten(2),
        {},
        2 * L * L * E,
    ),
    "wide values": (lambda s, x: F.scaled_dot_product_attention(x[..., :2], x[..., :2], x), {}, L * L * (2 + 8)),
    "by hand": (lambda s, x: (x @ x.transpose(1, 2) / 8**0.5).softmax(-1) @ x, {}, 2 * L * L * E),
    "einsum": (
        lambda s, x: torch.einsum("nls,nse->nle", torch.einsum("nle,nse->nls", x, x).softmax(-1), x),
        {},
        2 * L * L * E,
    ),
    "custom function": (lambda s, x: Custom.apply(x), {}, 2 * L * L * E),
    "checkpoint": (
        lambda s, x: torch.utils.checkpoint.checkpoint(
            lambda y: F.scaled_dot_product_attention(y, y, y), x, use_reentrant=False
        ),
        {},
        2 * L * L * E,
    ),
    # Attention, and 10 * 8 * 12 twice.
    "encoder layer": (
        lambda s, x: s.layer(x),
        {"layer": nn.TransformerEncoderLayer(E, HEADS, 12, batch_first=True)},
        SELF_ATTENTION + 1_920,
    ),
    "native encoder layer": (
        native_layer,
        {"layer": nn.TransformerEncoderLayer(E, HEADS, 12, batch_first=True)},
        SELF_ATTENTION + 1_920,
    ),
    "decoder layer": (
        lambda s, x: s.layer(x, x),
        {"layer": nn.TransformerDecoderLayer(E, HEADS, 12, batch_first=True)},
        2 * SELF_ATTENTION + 1_920,
    ),
}  # fmt: skip


@pytest.mark.parametrize("backend", [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH], ids=["fused", "plain"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_attention_costs_the_same_in_every_spelling(spelling, backend):
    function, parts, expected = SPELLINGS[spelling]
    with sdpa_kernel([backend, SDPBackend.MATH]):
        assert macs(Between(function, **parts), torch.randn(N, L, 5)) == AROUND + expected


def test_a_network_that_runs_in_inference_mode_has_the_same_space():
    def within(function):
        def inside(s, x):
            with torch.inference_mode():
                return function(s, x)

        return inside

    for name in ("fused", "function", "encoder layer", "einsum"):
        function, parts, expected = SPELLINGS[name]
        assert macs(Between(within(function), **parts), torch.randn(N, L, 5)) == AROUND + expected
    model, example = Between(SPELLINGS["encoder layer"][0], **SPELLINGS["encoder layer"][1]), torch.randn(N, L, 5)
    outside = trace(model, example)
    with torch.inference_mode():
        assert trace(model, example).fingerprint == outside.fingerprint


# Every step meets every matrix once: 10 steps, 8 inputs, 6 states.
@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.LSTM(E, 6, batch_first=True), L * 4 * 6 * (8 + 6)),
        (nn.GRU(E, 6, batch_first=True), L * 3 * 6 * (8 + 6)),
        (nn.RNN(E, 6, batch_first=True), L * 6 * (8 + 6)),
        (nn.LSTM(E, 6, batch_first=True, bias=False), L * 4 * 6 * (8 + 6)),
        (nn.LSTM(E, 3, batch_first=True, bidirectional=True), 2 * L * 4 * 3 * (8 + 3)),
        (nn.LSTM(E, 3, 2, batch_first=True, bidirectional=True), 2 * L * 4 * 3 * ((8 + 3) + (6 + 3))),
        (nn.GRU(E, 3, 2, batch_first=True, bidirectional=True), 2 * L * 3 * 3 * ((8 + 3) + (6 + 3))),
    ],
    ids=str,
)
def test_recurrent_layers_cost_their_matrices_at_every_step(layer, expected):
    model = Between(lambda s, x: F.pad(s.layer(x)[0], (0, 2)), layer=layer)
    assert macs(model, torch.randn(N, L, 5)) == AROUND + expected


@pytest.mark.parametrize(
    ("layer", "gates"), [(nn.LSTMCell(E, E), 4), (nn.GRUCell(E, E), 3), (nn.RNNCell(E, E), 1)], ids=str
)
def test_recurrent_cells_cost_their_two_matrices(layer, gates):
    def step(s, x):
        out = s.layer(x.flatten(0, 1))
        return (out[0] if isinstance(out, tuple) else out).view_as(x)

    assert macs(Between(step, layer=layer), torch.randn(N, L, 5)) == AROUND + L * gates * E * 2 * E


OTHERS = {
    "matrix times vector": (lambda s, x: x + (x @ torch.ones(E))[..., None], L * E),
    "dot product": (lambda s, x: x + torch.dot(torch.ones(50), torch.ones(50)), 50 / N),
    "bilinear": (lambda s, x: s.layer(x, x), L * 8 * (8 * 8 + 8)),
    "added batch of products": (lambda s, x: x + torch.addbmm(torch.zeros(L, E), x, torch.ones(N, E, E)), L * E * E),
    "over time": (lambda s, x: torch.conv_tbc(x, torch.ones(3, E, E), torch.zeros(E), 1), L * 3 * E * E),
    "baddbmm": (lambda s, x: torch.baddbmm(x, torch.ones(N, L, S), torch.ones(N, S, E)), L * S * E),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_products_are_counted(name):
    function, expected = OTHERS[name]
    assert macs(Between(function, layer=nn.Bilinear(E, E, E)), torch.randn(N, L, 5)) == AROUND + expected


def meta(*shape):
    return torch.empty(*shape, device="meta")


ENDS = torch.tensor([0, 3, 10])  # two sequences, of 3 and 7 tokens: 9 + 49 pairs
HEAD = meta(N, HEADS, L, 4), meta(N, HEADS, S, 4), meta(N, HEADS, S, 5)
LSTM = [meta(24, 8), meta(24, 6), meta(24), meta(24)]
ELSEWHERE = {  # operators that run on other devices only
    "_scaled_dot_product_flash_attention": (HEAD, N * HEADS * L * S * (4 + 5)),
    "_scaled_dot_product_efficient_attention": ((*HEAD, None, False), N * HEADS * L * S * (4 + 5)),
    "_scaled_dot_product_cudnn_attention": ((*HEAD, None, False), N * HEADS * L * S * (4 + 5)),
    "_scaled_dot_product_fused_attention_overrideable": (HEAD, N * HEADS * L * S * (4 + 5)),
    "_flash_attention_forward": (([meta(N, L, HEADS, 4)] * 3 + [None] * 4), N * HEADS * L * L * 8),
    "_flash_attention_forward#2": (([meta(10, HEADS, 4)] * 3 + [ENDS, ENDS, 7, 7]), HEADS * (9 + 49) * 8),
    "_efficient_attention_forward": (([meta(N, L, HEADS, 4)] * 3 + [None] * 5), N * HEADS * L * L * 8),
    "_efficient_attention_forward#2": (([meta(1, 10, HEADS, 4)] * 3 + [None, ENDS, ENDS]), HEADS * (9 + 49) * 8),
    "_cudnn_rnn": ((meta(N, L, 8), LSTM), N * L * 24 * (8 + 6)),
    "miopen_rnn": ((meta(N, L, 8), LSTM), N * L * 24 * (8 + 6)),
    "_lstm_mps": ((meta(N, L, 8), [], LSTM), N * L * 24 * (8 + 6)),
    "_int_mm": ((meta(3, 4), meta(4, 5)), 3 * 4 * 5),
    "_grouped_mm": ((meta(2, 3, 4), meta(2, 4, 5)), 2 * 3 * 4 * 5),
    "_grouped_mm#2": ((meta(3, 4), meta(2, 4, 5)), 3 * 4 * 5),
    "_grouped_mm#3": ((meta(2, 3, 4), meta(4, 5)), 3 * 4 * 5),
    "_grouped_mm#4": ((meta(3, 4), meta(4, 5)), 3 * 4 * 5),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_operators_of_other_devices_by_their_formula(name):
    arguments, expected = ELSEWHERE[name]
    operator = getattr(torch.ops.aten, name.partition("#")[0], None)
    if operator is None:
        pytest.skip(f"torch {torch.__version__} has no {name}")
    assert multiply_adds(operator.default, arguments, None) == expected


@pytest.mark.parametrize("transposed", [False, True])
def test_convolutions_by_their_formula(transposed):
    # 4 channels in two groups, 3x3, on 5x5: every output (transposed: input) meets 2 * 9 weights.
    x, weight = torch.randn(1, 4, 5, 5), torch.randn(4, 2, 3, 3)
    arguments = (x, weight, None, [1, 1], [0, 0], [1, 1], transposed, [0, 0], 2)
    out = torch.convolution(*arguments)
    operator = torch.ops.aten.convolution.default
    assert multiply_adds(operator, arguments, out) == (100 if transposed else 4 * 9) * 18
