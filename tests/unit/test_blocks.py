"""Blocks of many papers as people write them by hand: what can go from each, and that it may be traced again."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from search_spaces import prune, trace, verify
from search_spaces.verify import random_kept


def sizes(space):
    return {g.name: g.size for g in space.groups}


class Stream(nn.Module):
    """embed -> x + block(norm(x)) -> head, on sequences [2, 3, 4]."""

    def __init__(self, block, width=8):
        super().__init__()
        self.embed, self.norm, self.block, self.head = (
            nn.Linear(4, width),
            nn.LayerNorm(width),
            block,
            nn.Linear(width, 3),
        )

    def forward(self, x):
        x = self.embed(x)
        return self.head(x + self.block(self.norm(x)))


class Queries(nn.Module):
    """Grouped queries: `share(self, k)` makes a head [B, H, T, D] for each query of those of keys [B, K, T, D]."""

    def __init__(self, share, kv=2):
        super().__init__()
        self.h, self.kv, self.hd, self.share = 4, kv, 2, share
        self.q, self.k, self.v = nn.Linear(8, 8), nn.Linear(8, 2 * kv), nn.Linear(8, 2 * kv)
        self.o = nn.Linear(8, 8)

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = (
            f(x).view(b, t, n, self.hd).transpose(1, 2)
            for f, n in ((self.q, self.h), (self.k, self.kv), (self.v, self.kv))
        )
        k, v = self.share(self, k), self.share(self, v)
        y = (q @ k.mT / math.sqrt(self.hd)).softmax(-1) @ v
        return self.o(y.transpose(1, 2).reshape(b, t, -1))


def spread(s, k):
    b, _, t, d = k.shape
    return k[:, :, None].expand(b, s.kv, s.h // s.kv, t, d).reshape(b, s.h, t, d)


def repeated(s, k):
    return k.repeat_interleave(s.h // s.kv, 1)


class FiveAxes(Queries):
    def forward(self, x):
        b, t, _ = x.shape
        q = self.q(x).view(b, t, self.kv, self.h // self.kv, self.hd)
        k, v = (f(x).view(b, t, self.kv, self.hd) for f in (self.k, self.v))
        scores = torch.einsum("bqgnd,bkgd->bgnqk", q, k) * self.hd**-0.5
        return self.o(torch.einsum("bgnqk,bkgd->bqgnd", scores.softmax(-1), v).reshape(b, t, self.h * self.hd))


class Latent(nn.Module):
    """Multi-head latent attention (DeepSeek-V2): keys of all heads from a narrow latent, positions from one head."""

    def __init__(self, latent=6, plain=3, turned=2):
        super().__init__()
        self.n_heads, self.latent, self.plain, self.turned = 4, latent, plain, turned
        self.q, self.down = nn.Linear(8, 4 * (plain + turned)), nn.Linear(8, latent + turned)
        self.norm, self.up, self.o = nn.RMSNorm(latent), nn.Linear(latent, 4 * 2 * plain), nn.Linear(4 * plain, 8)

    def forward(self, x):
        b, t, _ = x.shape
        q = self.q(x).view(b, t, self.n_heads, self.plain + self.turned)
        latent, place = self.down(x).split([self.latent, self.turned], -1)
        k, v = self.up(self.norm(latent)).view(b, t, self.n_heads, 2 * self.plain).split([self.plain, self.plain], -1)
        k = torch.cat([k, place.unsqueeze(2).expand(-1, -1, self.n_heads, -1)], -1)
        scores = torch.einsum("bshd,bthd->bhst", q, k) * (self.plain + self.turned) ** -0.5
        return self.o(torch.einsum("bhst,bthd->bshd", scores.softmax(-1), v).flatten(2))


class Scan(nn.Module):
    """A selective state space (Mamba): its state is an outer product of two layers' channels."""

    def __init__(self, d_inner=6, n=2, rank=3):
        super().__init__()
        self.d_inner, self.n, self.rank = d_inner, n, rank
        self.enter, self.leave = nn.Linear(8, 2 * d_inner), nn.Linear(d_inner, 8)
        self.conv = nn.Conv1d(d_inner, d_inner, 2, groups=d_inner, padding=1)
        self.select, self.step = nn.Linear(d_inner, rank + 2 * n), nn.Linear(rank, d_inner)
        self.decay, self.skip = nn.Parameter(torch.rand(d_inner, n)), nn.Parameter(torch.rand(d_inner))

    def forward(self, x):
        b, t, _ = x.shape
        u, gate = self.enter(x).split([self.d_inner, self.d_inner], -1)
        u = F.silu(self.conv(u.mT)[:, :, :t].mT)
        step, into, out = self.select(u).split([self.rank, self.n, self.n], -1)
        step = F.softplus(self.step(step))
        keeps = torch.exp(torch.einsum("btd,dn->btdn", step, -self.decay.exp()))
        adds = torch.einsum("btd,btn,btd->btdn", step, into, u)
        state, made = torch.zeros(b, self.d_inner, self.n), []
        for i in range(t):
            state = keeps[:, i] * state + adds[:, i]
            made.append(torch.einsum("bdn,bn->bd", state, out[:, i]))
        return self.leave((torch.stack(made, 1) + u * self.skip) * F.silu(gate))


class Gated(nn.Module):
    """Every second channel is a gate."""

    def __init__(self):
        super().__init__()
        self.enter, self.leave = nn.Linear(8, 10), nn.Linear(5, 8)

    def forward(self, x):
        y = self.enter(x)
        return self.leave(F.silu(y[..., ::2]) * y[..., 1::2])


class Modulated(nn.Module):
    """Scales and shifts, split by the number of channels that they meet only afterwards."""

    def __init__(self):
        super().__init__()
        self.by, self.enter, self.leave = nn.Linear(8, 12), nn.Linear(8, 6), nn.Linear(6, 8)

    def forward(self, x):
        y = self.enter(x)
        scale, shift = self.by(x).split(y.shape[-1], -1)
        return self.leave(F.gelu(y * scale + shift))


class Partly(nn.Module):
    """A part of fixed size beside one whose size is known."""

    def __init__(self):
        super().__init__()
        self.rest, self.enter, self.leave = 5, nn.Linear(8, 7), nn.Linear(7, 8)

    def forward(self, x):
        a, b = self.enter(x).split([2, self.rest], -1)
        return self.leave(torch.cat([a.tanh(), b], -1))


HEADS = {"embed": 8, "block.q": 2}
BLOCKS = {
    "queries repeated": (lambda: Queries(repeated), HEADS),
    "queries spread": (lambda: Queries(spread), HEADS),
    "queries on an axis": (lambda: FiveAxes(None), HEADS),
    "one head of keys, repeated": (lambda: Queries(repeated, 1), HEADS | {"block.q": 4}),
    "one head of keys, spread": (lambda: Queries(spread, 1), HEADS | {"block.q": 4}),
    "latent": (Latent, {"embed": 8, "block.q": 4, "block.down": 6}),
    "scan": (Scan, {"embed": 8, "block.enter": 6, "block.select": 3}),
    "interleaved gate": (Gated, {"embed": 8, "block.enter": 5}),
    "modulated": (Modulated, {"embed": 8, "block.enter": 6}),
    "partly": (Partly, {"embed": 8, "block.enter#2": 5}),
}  # fmt: skip


@pytest.mark.parametrize("name", BLOCKS)
def test_what_can_go(law, name):
    make, expected = BLOCKS[name]
    model, x = Stream(make()).eval(), torch.randn(2, 3, 4)
    space = law(model, x, seeds=(0,))
    assert sizes(space) == expected
    pruned = prune(model, space, random_kept(space, np.random.default_rng(0)))
    verify(pruned, trace(pruned, x), x, seeds=(0,))


class Radix(nn.Module):
    """Split attention (ResNeSt), as many groups as channels in each: only the same channels of all groups can go."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 3, 1)
        self.conv, self.norm = nn.Conv2d(16, 32, 3, padding=1, groups=4), nn.BatchNorm2d(32)
        self.less, self.more = nn.Conv2d(16, 8, 1, groups=2), nn.Conv2d(8, 32, 1, groups=2)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(self.stem(x))))
        parts = x.split(x.shape[1] // 2, 1)
        given = self.more(F.relu(self.less(sum(parts).mean((2, 3), keepdim=True))))
        shares = given.view(len(x), 2, 2, -1).transpose(1, 2).softmax(1).reshape(len(x), -1, 1, 1)
        return self.head(sum(a * b for a, b in zip(parts, shares.split(x.shape[1] // 2, 1), strict=True)))


def test_layers_with_groups_lose_the_other_kind_where_one_unit_is_all_there_is(law):
    space = law(Radix().eval(), torch.randn(1, 3, 4, 4), seeds=(0,))
    assert sizes(space) == {"stem": 4, "conv": 8, "less": 4}


class Experts(nn.Module):
    """A mixture whose experts are stacked in two parameters; `run(self, x)` gives what each answers, [B, T, E, C]."""

    def __init__(self, run, hidden=10, number=3):
        super().__init__()
        self.gate, self.run, self.number = nn.Linear(8, number), run, number
        self.into, self.shift = nn.Parameter(torch.randn(number, 8, hidden)), nn.Parameter(torch.randn(number, hidden))
        self.out = nn.Parameter(torch.randn(number, hidden, 8))

    def forward(self, x):
        return (self.run(self, x) * self.gate(x).softmax(-1)[..., None]).sum(2)


def by_einsum(s, x):
    hidden = F.gelu(torch.einsum("btc,ech->bteh", x, s.into) + s.shift)
    return torch.einsum("bteh,ehc->btec", hidden, s.out)


def one_by_one(s, x):
    return torch.stack([F.gelu(x @ s.into[e] + s.shift[e]) @ s.out[e] for e in range(s.number)], 2)


def in_a_batch(s, x):
    flat = x.reshape(-1, x.shape[-1]).expand(s.number, -1, -1)
    out = torch.bmm(F.gelu(torch.bmm(flat, s.into) + s.shift[:, None]), s.out)
    return out.transpose(0, 1).reshape(*x.shape[:2], s.number, -1)


def spread_over(s, x):
    return (F.gelu(x.unsqueeze(1) @ s.into + s.shift[:, None]) @ s.out).transpose(1, 2)


@pytest.mark.parametrize("run", [by_einsum, one_by_one, in_a_batch, spread_over], ids=lambda f: f.__name__)
def test_stacked_experts_lose_hidden_channels(law, run):
    space = law(Stream(Experts(run)).eval(), torch.randn(2, 3, 4), seeds=(0,))
    assert sizes(space) == {"embed": 8, "block": 10}
    (hidden,) = (g for g in space.groups if g.name == "block")
    assert {(m.tensor, m.axis) for m in hidden.members} == {("block.into", 2), ("block.shift", 1), ("block.out", 1)}
    gate = next(g for g in space.frozen if g.name == "block.gate")  # which expert is told apart nowhere else
    assert "'block'" in gate.frozen_because


class Mirrored(nn.Module):
    """An autoencoder that decodes with the transposed weight of its encoder, [2, 3, 4]."""

    def __init__(self):
        super().__init__()
        self.embed, self.code, self.head = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(6, 3)
        self.shift = nn.Parameter(torch.randn(6))

    def forward(self, x):
        return self.head(F.linear(self.code(self.embed(x)).relu(), self.code.weight.t(), self.shift))


def test_a_transposed_weight_reads_what_it_makes(law):
    assert sizes(law(Mirrored().eval(), torch.randn(2, 3, 4), seeds=(0,))) == {"embed": 6, "code": 5}
