"""nn.MultiheadAttention and torch's transformers: whole heads go, and the stream that they read and write."""

import warnings

import numpy as np
import pytest
import torch
from duties import answers, examine, far
from torch import nn
from torch.nn import functional as F

from objectives.costs import Macs, Params
from search_spaces import prune, trace
from search_spaces.verify import random_kept


def sizes(space):
    return {g.name: g.size for g in space.groups}


def reasons(space):
    return {g.name: g.frozen_because for g in space.frozen if g.frozen_because != "output of the network"}


class Attend(nn.Module):
    """Linear -> attention -> linear -> linear, all of them free to shrink."""

    def __init__(self, *, call=None, **options):
        super().__init__()
        self.enter, self.mha = nn.Linear(5, 8), nn.MultiheadAttention(8, 4, **options)
        self.leave, self.out = nn.Linear(8, 6), nn.Linear(6, 3)
        self.call = call or (lambda mha, x: mha(x, x, x)[0])

    def forward(self, x):
        return self.out(F.relu(self.leave(self.call(self.mha, self.enter(x)))))


FREE = {"enter": 8, "mha": 4, "mha.out_proj": 8, "leave": 6}


@pytest.mark.parametrize("call", [
    lambda mha, x: mha(x, x, x)[0],
    lambda mha, x: mha(query=x, key=x, value=x, need_weights=False)[0],
    lambda mha, x: mha(x, x, x, need_weights=False, attn_mask=torch.ones(7, 7).triu(1).bool(), is_causal=True)[0],
    lambda mha, x: mha(x, x, x, attn_mask=torch.ones(7, 7, dtype=x.dtype).triu(1) * -3)[0],
    lambda mha, x: mha(x, x[:, :4], x[:, :4] * 2, key_padding_mask=torch.arange(4).expand(2, 4) > 2)[0],
], ids=["weights", "none", "causal", "float-mask", "padding"])  # fmt: skip
def test_heads_and_stream_shrink_however_it_is_called(law, call):
    model, x = Attend(call=call, batch_first=True), torch.randn(2, 7, 5)
    space = law(model, x)
    assert sizes(space) == FREE
    assert not reasons(space)
    pruned = examine(model, space, x)
    assert isinstance(pruned.mha, nn.MultiheadAttention)


@pytest.mark.parametrize(
    "options",
    [{}, {"bias": False}, {"add_bias_kv": True}, {"add_zero_attn": True, "add_bias_kv": True, "batch_first": True}],
    ids=str,
)
def test_heads_and_stream_shrink_with_every_option(law, options):
    model, x = Attend(**options), torch.randn(2, 7, 5)
    space = law(model, x)
    assert sizes(space) == FREE
    assert not reasons(space)
    examine(model, space, x)


def test_a_sequence_without_a_batch(law):
    model, x = Attend(), torch.randn(7, 5)
    space = trace(model, x)
    assert sizes(space) == FREE
    examine(model, space, x)


def test_rows_of_a_head_go_together_with_its_columns(law):
    space = law(Attend(batch_first=True), torch.randn(2, 7, 5))
    members = {(m.tensor, m.axis): m.index for m in space.groups[1].members}
    assert members.keys() == {("mha.in_proj_weight", 0), ("mha.in_proj_bias", 0), ("mha.out_proj.weight", 1)}
    assert members["mha.in_proj_weight", 0][1].tolist() == [2, 3, 10, 11, 18, 19]  # of queries, keys and values
    assert members["mha.out_proj.weight", 1][1].tolist() == [2, 3]


def test_costs_by_hand_and_attributes():
    model, x = Attend(batch_first=True), torch.randn(2, 7, 5)
    space = trace(model, x)
    # 6 channels into attention, 3 heads of width 2 there, 5 channels out of it, 4 behind it; 7 tokens
    widths = (6, 3, 5, 4)
    #      enter   q, k, v      scores + sums   projection  leave   out
    macs = 5 * 6 + 6 * 6 * 3 + 7 * 2 * 6      + 6 * 5 +     5 * 4 + 4 * 3  # of each token  # fmt: skip
    assert Macs(space)(widths) == 7 * macs
    pruned = prune(model, space, [np.arange(w) for w in widths])
    weights = 5 * 6 + 6 + 6 * 18 + 18 + 6 * 5 + 5 + 5 * 4 + 4 + 4 * 3 + 3
    assert Params(space)(widths) == sum(p.numel() for p in pruned.parameters()) == weights
    mha = pruned.mha
    assert (mha.embed_dim, mha.kdim, mha.vdim, mha.num_heads, mha.head_dim) == (5, 6, 6, 3, 2)
    assert (model.mha.embed_dim, type(model.mha)) == (8, nn.MultiheadAttention)


class Cross(nn.Module):
    """Queries of one kind attend to keys and values of others."""

    def __init__(self, **options):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(5, 8), nn.Linear(5, 6), nn.Linear(5, 4)
        self.mha = nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True, **options)
        self.out = nn.Linear(8, 3)

    def forward(self, x, y):
        return self.out(self.mha(self.q(x), self.k(y), self.v(y))[0])


@pytest.mark.parametrize("options", [{}, {"add_bias_kv": True, "add_zero_attn": True, "bias": False}], ids=str)
def test_cross_attention_with_projections_apart(law, options):
    model, example = Cross(**options), (torch.randn(2, 7, 5), torch.randn(2, 3, 5))
    space = law(model, example)
    assert sizes(space) == {"q": 8, "k": 6, "v": 4, "mha": 2, "mha.out_proj": 8}
    examine(model, space, example)


def test_averaged_weights_that_are_used_hold_the_heads(law):
    def call(mha, x):
        y, weights = mha(x, x, x)
        return y * weights.square().flatten(1).sum(1)[:, None, None]

    space = law(Attend(call=call, batch_first=True), torch.randn(2, 7, 5))
    assert reasons(space) == {"mha": "the attention of 'mha', averaged over its heads, is used"}


def test_weights_per_head_can_be_used(law):
    class Biased(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.out = nn.MultiheadAttention(8, 4, batch_first=True), nn.Linear(4, 3)
            self.enter = nn.Linear(5, 8)

        def forward(self, x):
            x = self.enter(x)
            return self.out(self.a(x, x, x, average_attn_weights=False)[1].transpose(1, -1).relu())

    space = law(Biased(), torch.randn(2, 7, 5))
    assert sizes(space)["a"] == 4
    heads = next(g for g in space.groups if g.name == "a")
    assert ("out.weight", 1) in {(m.tensor, m.axis) for m in heads.members}


def test_a_mask_for_each_head_holds_the_heads(law):
    model = Attend(call=lambda mha, x: mha(x, x, x, attn_mask=torch.zeros(8, 7, 7, dtype=x.dtype))[0], batch_first=True)
    space = law(model, torch.randn(2, 7, 5))
    assert reasons(space) == {"mha": "the mask of attention in 'mha' has a fixed number of heads"}
    examine(model, space, torch.randn(2, 7, 5))


def test_a_subclass_that_computes_something_else_is_frozen(law):
    class Own(nn.MultiheadAttention):
        def forward(self, x):
            return super().forward(x, x, x)[0] * self.num_heads

    net = nn.Sequential(nn.Linear(5, 8), Own(8, 4), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    space = law(net, torch.randn(2, 7, 5))
    assert reasons(space) == {"0": "it computes something of its own on nn.MultiheadAttention ('1')"}


def encoder(**options):
    return nn.TransformerEncoderLayer(8, 4, 20, **options)


@pytest.mark.parametrize(
    "options", [{"batch_first": True}, {"norm_first": True, "activation": "gelu"}, {"bias": False}], ids=str
)
@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
def test_transformer_encoder(law, options):
    net = nn.Sequential(nn.Linear(5, 8), nn.TransformerEncoder(encoder(**options), 2), nn.Linear(8, 3))
    x = torch.randn(2, 7, 5)
    space = law(net, x)
    assert not reasons(space)
    names = [f"1.layers.{i}.{part}" for i in (0, 1) for part in ("self_attn", "linear1")]
    assert sizes(space) == {"0": 8, **dict(zip(names, (4, 20) * 2, strict=True))}
    examine(net, space, x)


class Translator(nn.Module):
    """nn.Transformer between embeddings and a head."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Embedding(11, 8), nn.Embedding(12, 8)
        self.transformer = nn.Transformer(8, 4, 1, 2, 20, batch_first=True)
        self.head = nn.Linear(8, 12)

    def forward(self, source, target):
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1], dtype=self.head.weight.dtype)
        padding = {"src_key_padding_mask": source == 0, "memory_key_padding_mask": source == 0, "tgt_is_causal": True}
        return self.head(self.transformer(self.a(source), self.b(target), tgt_mask=mask, **padding))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_transformer_with_cross_attention(law):
    model, example = Translator(), (torch.randint(1, 11, (2, 6)), torch.randint(12, (2, 4)))
    space = law(model, example)
    assert not reasons(space)
    attention = [f"transformer.{n}" for n in (
        "encoder.layers.0.self_attn", "decoder.layers.0.self_attn", "decoder.layers.0.multihead_attn",
        "decoder.layers.1.self_attn", "decoder.layers.1.multihead_attn"
    )]  # fmt: skip
    assert {name for name, size in sizes(space).items() if size == 4} == set(attention)
    pruned = examine(model, space, example)
    assert pruned.transformer.d_model == pruned.a.weight.shape[1] == pruned.head.in_features < 8


class Detector(nn.Module):
    """Learnt queries attend to the pixels of a feature map, to which positions are added."""

    def __init__(self):
        super().__init__()
        self.stem, self.project = nn.Conv2d(3, 10, 4, 4), nn.Conv2d(10, 8, 1)
        self.positions, self.queries = nn.Parameter(torch.randn(16, 8)), nn.Parameter(torch.randn(5, 8))
        self.encoder = encoder(batch_first=True)
        self.decoder = nn.TransformerDecoderLayer(8, 4, 20, batch_first=True)
        self.classes, self.boxes = nn.Linear(8, 4), nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x):
        memory = self.project(F.relu(self.stem(x))).flatten(2).transpose(1, 2) + self.positions
        queries = self.queries.repeat(len(x), 1, 1)
        found = self.decoder(queries, self.encoder(memory))
        return self.classes(found), self.boxes(found).sigmoid()


def test_detector_with_learnt_queries(law):
    model, x = Detector(), torch.randn(2, 3, 16, 16)
    space = law(model, x)
    assert not reasons(space)
    assert {n: s for n, s in sizes(space).items() if s == 4}.keys() == {
        "encoder.self_attn", "decoder.self_attn", "decoder.multihead_attn"
    }  # fmt: skip
    examine(model, space, x)


@pytest.mark.parametrize("widths", [(4, 2), (4, 4), (6, 3), (8, 4)], ids=str)
def test_the_fast_path_of_eval_computes_the_same(widths):
    """Alike in stream and heads (as 4 channels and 2 heads of 2) torch runs one fused operation, else its parts."""
    net = nn.Sequential(nn.Linear(5, 8), nn.TransformerEncoder(encoder(batch_first=True), 2), nn.Linear(8, 3)).eval()
    x = torch.randn(2, 7, 5)
    space = trace(net, x)
    stream, heads = widths
    wanted = {"0": stream, "1.layers.0.self_attn": heads, "1.layers.1.self_attn": heads}
    pruned = prune(net, space, [np.arange(wanted.get(g.name, g.size)) for g in space.groups]).eval()
    assert pruned[1].layers[0].self_attn._qkv_same_embed_dim == (stream == 2 * heads)
    fast = answers(pruned, x)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        assert far(answers(pruned, x), fast) < 1e-5
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_a_padded_batch_runs_whatever_is_kept():
    net = nn.TransformerEncoder(encoder(batch_first=True), 2).eval()
    with_stream = nn.ModuleDict({"enter": nn.Linear(5, 8), "encoder": net})

    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = with_stream

        def forward(self, x):
            padding = torch.arange(7).expand(2, 7) > torch.tensor([[6], [3]])
            return self.parts["encoder"](self.parts["enter"](x), src_key_padding_mask=padding)[1, :4]

    model, x = Padded().eval(), torch.randn(2, 7, 5)
    space = trace(model, x)
    for seed in range(3):
        pruned = prune(model, space, random_kept(space, np.random.default_rng(seed)))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The PyTorch API of nested tensors")
            fast = answers(pruned, x)
            pruned.requires_grad_(True)
            slow = [pruned(x).detach()]
        assert far(fast, slow) < 1e-5
