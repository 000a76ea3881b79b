"""Sizes that stand in attributes of modules: whole heads go, and the attributes follow."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from search_spaces import SearchSpace, prune, trace

TOKENS = (2, 9, 12)


def sizes(space):
    return {g.name: g.size for g in space.groups}


def reasons(space):
    return {g.name: g.frozen_because for g in space.frozen if g.frozen_because != "output of the network"}


class Attention(nn.Module):
    """As in timm: fused projection, heads and their width in attributes."""

    def __init__(self, dim=12, heads=3, out=None):
        super().__init__()
        self.num_heads, self.head_dim, self.all_heads = heads, dim // heads, dim
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.scale = self.head_dim**-0.5
        self.merge = out or (lambda s, y, shape: y.reshape(*shape[:2], s.all_heads))

    def forward(self, x):
        shape = b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(self.merge(self, y.transpose(1, 2), shape))


class Block(nn.Module):
    """entry -> residual attention -> head."""

    def __init__(self, attend):
        super().__init__()
        self.entry, self.attend, self.head = nn.Linear(12, 12), attend, nn.Linear(12, 5)

    def forward(self, x):
        x = self.entry(x)
        return self.head(x + self.attend(x))


@pytest.mark.parametrize(
    "merge",
    [
        lambda s, y, shape: y.reshape(*shape[:2], s.all_heads),
        lambda s, y, shape: y.reshape(*shape[:2], s.num_heads * s.head_dim),
        lambda s, y, shape: y.reshape(*shape[:2], -1),
        lambda s, y, shape: y.flatten(2),
    ],
)
def test_whole_heads_go_and_their_number_follows(law, merge):
    model = Block(Attention(out=merge))
    space = law(model, torch.randn(TOKENS))
    assert sizes(space) == {"entry": 12, "attend.qkv": 3}
    pruned = prune(model, space, [np.arange(12), np.array([0, 2])])
    assert (pruned.attend.num_heads, pruned.attend.head_dim, pruned.attend.scale) == (2, 4, 0.5)
    assert pruned.attend.qkv.out_features == 24
    assert model.attend.num_heads == 3
    rows = next(m for m in space.groups[1].members if m.tensor == "attend.qkv.weight").index
    assert rows[1].tolist() == [*range(4, 8), *range(16, 20), *range(28, 32)]


def test_a_width_counted_from_the_input_ties_heads_to_the_stream(law):
    """`reshape(B, N, C)` with C of the input, the commonest spelling: a head goes with its share of the stream."""
    space = law(Block(Attention(out=lambda s, y, shape: y.reshape(shape))), torch.randn(TOKENS))
    assert sizes(space) == {"entry": 3}
    stream = next(m for m in space.groups[0].members if m.tensor == "head.weight").index
    assert stream.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_heads_whose_number_enters_a_value_are_frozen(law):
    merge = lambda s, y, shape: (y * s.num_heads**-0.5).flatten(2)  # noqa: E731
    found = reasons(law(Block(Attention(out=merge)), torch.randn(TOKENS)))
    assert found["attend.qkv"] == "the size 'attend.num_heads' enters arithmetic in 'attend'"


def test_a_width_worked_out_from_the_input_and_the_heads(law):
    """As in torchvision's Swin: `C // num_heads` wide heads of a stream of C."""

    class Windowed(Attention):
        def forward(self, x):
            b, n, c = x.shape
            qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
            q, k, v = qkv[0] * (c // self.num_heads) ** -0.5, qkv[1], qkv[2]
            return self.proj(((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))

    model = Block(Windowed())
    space = law(model, torch.randn(TOKENS))
    assert sizes(space) == {"entry": 3}
    assert prune(model, space, [np.array([1, 2])]).attend.num_heads == 2


def test_projections_apart_with_several_sizes(law):
    """As in Hugging Face's BERT."""

    class Apart(nn.Module):
        def __init__(self):
            super().__init__()
            self.num_attention_heads, self.attention_head_size, self.all_head_size = 3, 4, 12
            self.query, self.key, self.value, self.dense = (nn.Linear(12, 12) for _ in range(4))

        def split(self, x):
            return x.view(*x.size()[:-1], self.num_attention_heads, self.attention_head_size).permute(0, 2, 1, 3)

        def forward(self, x):
            q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
            scores = q @ k.transpose(-1, -2) / self.attention_head_size**0.5
            y = (scores.softmax(-1) @ v).permute(0, 2, 1, 3).contiguous()
            return self.dense(y.view(*y.size()[:-2], self.all_head_size))

    model = Block(Apart())
    space = law(model, torch.randn(TOKENS))
    assert sizes(space) == {"entry": 12, "attend.query": 3}
    same = SearchSpace.from_json(space.to_json())
    attend = prune(model, same, [np.arange(12), np.array([1])]).attend
    assert (attend.num_attention_heads, attend.attention_head_size, attend.all_head_size) == (1, 4, 4)


def test_splits_by_stored_sizes(law, toy):
    """As in FasterNet and in CSP blocks: `split([self.a, self.b])`."""

    class Partial(nn.Module):
        def __init__(self):
            super().__init__()
            self.sizes, self.part = [3, 5], toy.conv(3, 3)

        def forward(self, x):
            a, b = torch.split(x, self.sizes, 1)
            return torch.cat([self.part(a), b], 1)

    model = toy(lambda s, x: s.p(x), p=Partial())
    space = law(model, torch.randn(2, 3, 8, 8))
    assert sorted(sizes(space).values()) == [3, 3, 5, 6]
    kept = [np.arange(g.size)[1:] for g in space.groups]
    assert prune(model, space, kept).body.p.sizes == [2, 4]
    assert model.body.p.sizes == [3, 5]


def test_attributes_are_plain_numbers_after_the_trace():
    model = Block(Attention())
    before = {n: dict(vars(m)) for n, m in model.named_modules()}
    trace(model, torch.randn(TOKENS))
    after = {n: dict(vars(m)) for n, m in model.named_modules()}
    assert {type(v) for m in after.values() for v in m.values() if isinstance(v, int)} <= {int, bool}
    assert all(before[n][k] == v for n, m in after.items() for k, v in m.items() if isinstance(v, int))


class Headed(nn.Module):
    """Attention with products written out; `bias(self, scores)` changes the scores [B, heads, L, L]."""

    def __init__(self, bias, heads=3, **parts):
        super().__init__()
        self.num_heads, self.head_dim, self.bias = heads, 4, bias
        self.qkv, self.proj = nn.Linear(12, 3 * heads * 4), nn.Linear(heads * 4, 12)
        for name, part in parts.items():
            if isinstance(part, torch.Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        scores = self.bias(self, q @ k.transpose(-2, -1) * 0.5)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def heads_of(law, attend):
    space = law(Block(attend), torch.randn(TOKENS))
    return next(g for g in space.groups if g.name == "attend.qkv")


def table(*shape):
    return nn.Parameter(torch.randn(shape))


def windowed(s, a):
    """Two windows in the batch, each with a mask of its own."""
    return (a.view(1, 2, s.num_heads, 9, 9) + s.t[None, :, None]).view(-1, s.num_heads, 9, 9)


PLACES = torch.randint(17, (9, 9))
BIASES = {
    "axis by axis": (lambda s, a: a + s.t[:, PLACES], {"t": table(3, 17)}),  # LeViT
    "heads last": (lambda s, a: a + s.t[PLACES.view(-1)].view(9, 9, -1).permute(2, 0, 1)[None], {"t": table(17, 3)}),
    "by a network of coordinates": (  # Swin V2
        lambda s, a: a + s.net(s.where).view(-1, s.num_heads)[PLACES.view(-1)].view(9, 9, -1).permute(2, 0, 1),
        {"where": torch.randn(1, 5, 5, 2), "net": nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 3))},
    ),
    "slopes": (  # ALiBi
        lambda s, a: a - s.t.view(-1, 1, 1) * (s.at[:, None] - s.at).abs(),
        {"t": torch.rand(3), "at": torch.arange(9.0)},
    ),
    "scale of each head": (lambda s, a: a * s.t.clamp(max=2).exp(), {"t": table(3, 1, 1)}),
    "whole table": (lambda s, a: a + s.t, {"t": table(1, 3, 9, 9)}),
    "mask of windows": (windowed, {"t": torch.randn(2, 9, 9)}),
    "causal": (lambda s, a: a.masked_fill(s.t[:9, :9] == 0, -1e9), {"t": torch.ones(12, 12).tril()}),
}  # fmt: skip


@pytest.mark.parametrize("name", BIASES)
def test_biases_and_masks_of_heads(law, name):
    bias, parts = BIASES[name]
    group = heads_of(law, Headed(bias, **parts))
    assert group.size == 3
    headed = {"axis by axis", "heads last", "slopes", "scale of each head", "whole table"}
    assert any(m.tensor == "attend.t" for m in group.members) == (name in headed)


def test_rotary_embeddings(law):
    """With tables that hold for every head."""

    class Rotary(Headed):
        def turned(self, x):
            half = x.shape[-1] // 2
            return x * self.cos + torch.cat([-x[..., half:], x[..., :half]], -1) * self.sin

        def forward(self, x):
            b, n, _ = x.shape
            q, k, v = self.qkv(x).view(b, n, 3, -1, self.head_dim).permute(2, 0, 3, 1, 4)
            q, k = self.turned(q), self.turned(k)
            return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, -1))

    angles = torch.randn(9, 4)
    assert heads_of(law, Rotary(None, cos=angles.cos(), sin=angles.sin())).size == 3


def test_attention_between_channels(law):
    """As in XCiT and Restormer: each head's channels attend to one another, with a temperature for each head."""

    class Crossed(Headed):
        def forward(self, x):
            b, n, _ = x.shape
            qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 4, 1)
            q, k, v = F.normalize(qkv[0], dim=-1), F.normalize(qkv[1], dim=-1), qkv[2]
            a = (q @ k.transpose(-2, -1) * self.t).softmax(-1)
            return self.proj((a @ v).permute(0, 3, 1, 2).reshape(b, n, -1))

    assert heads_of(law, Crossed(None, t=table(3, 1, 1))).size == 3


def test_linear_attention(law):
    class Linear(Headed):
        def forward(self, x):
            b, n, _ = x.shape
            q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
            q, k = F.elu(q) + 1, F.elu(k) + 1
            y = q @ (k.transpose(-2, -1) @ v) / (q * k.sum(2, keepdim=True)).sum(-1, keepdim=True)
            return self.proj(y.transpose(1, 2).flatten(2))

    assert heads_of(law, Linear(None)).size == 3


def test_caches_do_not_hand_on_what_was_worked_out_for_other_weights(law):
    """As in LeViT: biases that are gathered once for evaluation."""

    def bias(s, a):
        if "cpu" not in s.bias_cache:
            s.bias_cache["cpu"] = s.t[:, PLACES]
        return a + s.bias_cache["cpu"]

    attend = Headed(bias, t=table(3, 17))
    attend.bias_cache = {}
    with torch.no_grad():
        Block(attend)(torch.randn(TOKENS))  # used before
    kept = attend.bias_cache["cpu"]
    assert heads_of(law, attend).size == 3
    assert attend.bias_cache["cpu"] is kept


def test_heads_are_units_in_criteria_encodings_and_reports():
    from autoprune.criteria import score_all
    from autoprune.report.tables import groups_table
    from search_spaces.encodings import Ratios

    model = Block(Attention())
    space = trace(model, torch.randn(TOKENS))
    entry, heads = space.groups
    assert (entry.unit, heads.unit, heads.counted(1), heads.counted(2)) == ("channel", "head", "1 head", "2 heads")
    assert SearchSpace.from_json(space.to_json()).groups[1].unit == "head"
    assert "3 heads" in str(groups_table(space).columns[1]._cells)
    rows = model.attend.qkv.weight.detach().abs().sum(1).reshape(3, 3, 4)  # of queries, keys and values; head; width
    made = score_all("l1", model, space, [])[1]
    np.testing.assert_allclose(made / made.sum(), rows.sum((0, 2)) / rows.sum(), rtol=1e-5)
    assert Ratios(space).decode(np.array([1.0, 0.5])) == (12, 2)


class Handwritten(nn.Module):
    """Attention beside a residual stream; its views are given by functions of (module, b, n, d)."""

    def __init__(self, split, joined):
        super().__init__()
        self.heads, self.head_dim, self.split, self.joined = 4, 8, split, joined
        self.embed, self.qkv, self.out, self.head = (
            nn.Embedding(10, 32), nn.Linear(32, 96), nn.Linear(32, 32), nn.Linear(32, 5),
        )  # fmt: skip

    def forward(self, tokens):
        x = self.embed(tokens)
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, *self.split(self, d)).permute(2, 0, 3, 1, 4)
        heads = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.head((x + self.out(heads.reshape(b, n, self.joined(self, d)))).mean(1))


SPLITS = {
    "shape": lambda net, d: (net.heads, d // net.heads),
    "-1": lambda net, d: (net.heads, -1),
    "attribute": lambda net, d: (net.heads, net.head_dim),
}
JOINED = {"shape": lambda net, d: d, "-1": lambda net, d: -1, "attribute": lambda net, d: net.heads * net.head_dim}


@pytest.mark.parametrize("joined", JOINED)
@pytest.mark.parametrize("split", SPLITS)
def test_a_width_that_is_read_from_the_stream_ties_heads_to_it(split, joined):
    space = trace(Handwritten(SPLITS[split], JOINED[joined]).eval(), torch.zeros(1, 7, dtype=torch.long))
    tied = "shape" in (split, joined)
    told = {"embed": "4 heads"} if tied else {"embed": "32", "qkv": "4 heads"}
    assert {group.name: group.counted(group.size) for group in space.groups} == told


def test_a_number_of_heads_that_is_a_figure_in_the_code_freezes_them():
    net = Handwritten(lambda net, d: (4, -1), JOINED["-1"]).eval()
    space = trace(net, torch.zeros(1, 7, dtype=torch.long))
    assert [group.name for group in space.groups] == ["embed"]
    assert "qkv" in [group.name for group in space.frozen]


class Scaled(nn.Module):
    """Embeddings times a number worked out of their width."""

    def __init__(self, scale):
        super().__init__()
        self.dim, self.scale = 8, scale
        self.embed, self.wide, self.head = nn.Embedding(10, self.dim), nn.Linear(self.dim, 12), nn.Linear(12, 4)

    def forward(self, x):
        return self.head(self.wide(self.embed(x) * self.scale(self)).relu().mean(1))


@pytest.mark.parametrize(
    ("scale", "groups"),
    [(lambda s: s.dim**0.5, ["embed", "wide"]), (lambda s: s.embed.embedding_dim**0.5, ["wide"])],
    ids=["own", "of the layer"],
)
def test_a_scale_of_a_width(law, scale, groups):
    """The layer's own attribute is its true width, which a scale would follow; one of the network's stays."""
    net = Scaled(scale)
    space = law(net, torch.randint(0, 10, (2, 5)), seeds=(0,))
    assert [g.name for g in space.groups] == groups
    pruned = prune(net, space, [np.arange(g.size // 2) for g in space.groups])
    assert (pruned.dim, pruned.embed.embedding_dim) == (8, pruned.embed.weight.shape[1])
