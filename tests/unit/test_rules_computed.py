"""Weights that are computed from parameters, and those of experts that are chosen by an index."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from search_spaces import prune, trace

TOKENS, IMAGE = (2, 5, 6), (2, 3, 6, 6)


def sizes(space):
    return {g.name: g.size for g in space.groups}


class Made(nn.Module):
    """A linear layer (6 -> 10 or back) whose weight is `weight(self)`; it has a few parameters to make it of."""

    def __init__(self, into, out, weight):
        super().__init__()
        self.w, self.a, self.b = (nn.Parameter(torch.randn(s) / 3) for s in ((out, into), (3, into), (out, 3)))
        self.g, self.weight, self.scale = nn.Parameter(torch.rand(out) + 0.5), weight, 0.5
        self.register_buffer("seen", (torch.rand(out, into) > 0.3).float())

    def forward(self, x):
        return F.linear(x, self.weight(self))


WEIGHTS = {
    "LoRA, merged": lambda s: s.w + s.b @ s.a * s.scale,
    "LoRA, turned": lambda s: s.w + (s.a.T @ s.b.T).T * s.scale,
    "einsum": lambda s: s.w + torch.einsum("or,ri->oi", s.b, s.a),
    "masked (MADE)": lambda s: s.w * s.seen,
    "not zero of zero": lambda s: s.w.exp() * 0.1,
    "normalised": lambda s: F.normalize(s.w, dim=-1),
    "weight norm": lambda s: s.g[:, None] * s.w / s.w.norm(dim=1, keepdim=True),
    "of batch-norm": lambda s: s.w * (s.g / (s.g + 1).sqrt()).reshape(-1, 1),
    "sign and scale": lambda s: s.w.sign() * s.w.abs().mean(),
    "standardised": lambda s: (s.w - s.w.mean(1, keepdim=True)) / (s.w.std(1, keepdim=True) + 1e-5),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_channels_of_a_computed_weight_go(law, name):
    inner = nn.Sequential(Made(6, 10, WEIGHTS[name]), nn.ReLU(), Made(10, 6, WEIGHTS[name]))
    model = nn.Sequential(nn.Linear(6, 6), inner, nn.Linear(6, 4))
    space = law(model, torch.randn(TOKENS))
    assert sizes(space) == {"0": 6, "1.0": 10, "1.2": 6}
    pruned = prune(model, space, [np.arange(4), np.arange(7), np.arange(5)])
    assert pruned[1][0].w.shape == (7, 4)
    if "LoRA" in name:  # the rank stays
        assert (pruned[1][0].a.shape, pruned[1][0].b.shape) == ((3, 4), (7, 3))


WRITTEN = {
    "itself": lambda made, other: made.copy_(other),
    "what shares its memory": lambda made, other: made.T.copy_(other.T),
    "a sum": lambda made, other: made.add_(other),
    "a part": lambda made, other: made[:, :2].zero_(),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_into_is_no_weight_of_its_parameters_any_more(law, name):
    def weight(s):
        made = s.w * s.scale
        WRITTEN[name](made, s.seen.cumsum(0))
        return made

    model = nn.Sequential(nn.Linear(6, 6), Made(6, 10, weight), nn.Linear(10, 6), nn.Linear(6, 4))
    assert sizes(law(model, torch.randn(TOKENS))) == {"2": 6}


def test_weights_of_a_transposed_product(law):
    class Complex(nn.Module):
        """A linear recurrent unit: complex weights of two real ones, scaled by row."""

        def __init__(self):
            super().__init__()
            self.re, self.im, self.out = (nn.Parameter(torch.randn(8, 6) / 3) for _ in range(3))
            self.gamma = nn.Parameter(torch.rand(8))

        def forward(self, x):
            weight = torch.complex(self.re, self.im) * self.gamma.unsqueeze(-1)
            return (x.to(weight.dtype) @ weight.T).real @ self.out

    model = nn.Sequential(nn.Linear(6, 6), Complex(), nn.Linear(6, 4))
    assert sizes(law(model, torch.randn(TOKENS))) == {"0": 6, "1": 8, "1#2": 6}


def test_kernels_that_are_added_in_the_forward(law, toy):
    """Re-parameterisation on the fly: 3x3 + padded 1x1, and batch-norm folded into a kernel."""

    def function(s, x):
        x = F.relu(F.conv2d(x, s.a.weight + F.pad(s.b.weight, [1, 1, 1, 1]), s.a.bias + s.b.bias, padding=1))
        scale = s.norm.weight / (s.norm.running_var + s.norm.eps).sqrt()
        return F.conv2d(x, s.c.weight * scale.reshape(-1, 1, 1, 1), s.norm.bias - s.norm.running_mean * scale)

    parts = {"a": toy.conv(8, 7), "b": toy.conv(8, 7, 1), "c": toy.conv(7, 8, bias=False), "norm": nn.BatchNorm2d(8)}
    space = law(toy(function, **parts), torch.randn(IMAGE))
    assert sizes(space) == {"stem.0": 8, "body.a": 7, "body.c": 8, "head": 6}


def test_what_is_computed_meets_channels(law):
    """DoRA: a magnitude over the norm of the merged rows scales what the layer makes."""

    class Dora(nn.Module):
        def __init__(self):
            super().__init__()
            self.base, self.a, self.b = nn.Linear(6, 8), nn.Linear(6, 3, bias=False), nn.Linear(3, 8, bias=False)
            self.magnitude = nn.Parameter(torch.rand(8) + 0.5)

        def forward(self, x):
            norm = torch.linalg.norm(self.base.weight + 0.5 * self.b.weight @ self.a.weight, dim=1)
            scale = (self.magnitude / norm).view(1, -1)
            return self.base(x) + (scale - 1) * F.linear(x, self.base.weight) + scale * self.b(self.a(x)) * 0.5

    space = law(nn.Sequential(nn.Linear(6, 6), Dora(), nn.Linear(8, 4)), torch.randn(TOKENS))
    assert {"0", "1.base"} <= set(sizes(space))


class Experts(nn.Module):
    """The first of four experts that a router likes best; `use(self, x [rows, 6], index [rows])`."""

    def __init__(self, use):
        super().__init__()
        self.router, self.use = nn.Linear(6, 4), use
        self.up, self.down = nn.Parameter(torch.randn(4, 8, 6) / 3), nn.Parameter(torch.randn(4, 6, 8) / 3)
        self.shift = nn.Parameter(torch.randn(4, 8))

    def forward(self, x):
        rows = x.reshape(-1, x.shape[-1])
        return self.use(self, rows, self.router(rows).argmax(-1)).view(x.shape)


USES = {
    "einsum": lambda s, x, i: torch.einsum(
        "th,tdh->td", F.relu(torch.einsum("td,thd->th", x, s.up[i]) + s.shift[i]), s.down[i]
    ),
    "weights on the left": lambda s, x, i: (
        s.down[i] @ F.relu(s.up[i] @ x.unsqueeze(-1) + s.shift[i].unsqueeze(-1))
    ).squeeze(-1),
    "turned": lambda s, x, i: (
        F.relu(x.unsqueeze(1) @ s.up[i].transpose(1, 2) + s.shift[i].unsqueeze(1))
        @ s.down.index_select(0, i).transpose(1, 2)
    ).squeeze(1),
    "one row after the other": lambda s, x, i: torch.stack(
        [F.linear(F.relu(F.linear(r, s.up[e], s.shift[e])), s.down[e]) for r, e in zip(x, i, strict=True)]
    ),
}


@pytest.mark.parametrize("name", USES)
def test_experts_chosen_by_an_index(name):
    from judge import judge

    from search_spaces import verify
    from search_spaces.verify import random_kept

    model, x = nn.Sequential(nn.Linear(6, 6), Experts(USES[name]), nn.Linear(6, 4)), torch.randn(TOKENS)
    space = trace(model, x)
    assert sizes(space) == {"0": 6, "1": 8}
    assert verify(model, space, x) < 1e-6
    for seed in range(3):  # which experts are chosen changes with the channels, and so do the counted multiply-adds
        assert judge(model, space, random_kept(space, np.random.default_rng(seed)), x) < 1e-6


def test_modulated_convolutions_stay(law):
    """StyleGAN: a kernel for each image, with grouped convolutions; it says so."""

    class Modulated(nn.Module):
        def __init__(self):
            super().__init__()
            self.style, self.weight = nn.Linear(3, 8), nn.Parameter(torch.randn(1, 8, 8, 3, 3))

        def forward(self, x, style):
            b, c, h, w = x.shape
            weight = self.weight * self.style(style).view(b, 1, c, 1, 1)
            weight = weight * torch.rsqrt(weight.pow(2).sum([2, 3, 4]) + 1e-8).view(b, 8, 1, 1, 1)
            return F.conv2d(x.view(1, b * c, h, w), weight.view(b * 8, c, 3, 3), groups=b).view(b, 8, h - 2, w - 2)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.mod, self.tail, self.head = (
                nn.Conv2d(3, 8, 1),
                Modulated(),
                nn.Conv2d(8, 6, 1),
                nn.Linear(6, 4),
            )

        def forward(self, x):
            return self.head(self.tail(self.mod(self.enter(x), x.mean((2, 3)))).mean((2, 3)))

    space = law(Net(), torch.randn(IMAGE))
    assert sizes(space) == {"tail": 6}
    assert "the weight of 'mod' is computed, not a parameter" in {g.frozen_because for g in space.frozen}


class Halved(nn.Module):
    """A product with a weight that is made of halves of a parameter [8, 8], along one of its axes."""

    def __init__(self, axis, made):
        super().__init__()
        reads, makes = ((4, 8), (8, 4))[axis]
        self.enter, self.first, self.w = nn.Linear(6, 8), nn.Linear(8, reads), nn.Parameter(torch.randn(8, 8))
        self.head, self.axis, self.made = nn.Linear(makes, 4), axis, made

    def forward(self, x):
        weight = self.made(*((self.w[:4], self.w[4:]), (self.w[:, :4], self.w[:, 4:]))[self.axis])
        x = self.first(self.enter(x).relu()).to(weight.dtype) @ weight
        return self.head(x.abs())


@pytest.mark.parametrize("made", [lambda a, b: a * 2 + b, torch.complex], ids=["added", "complex"])
@pytest.mark.parametrize("axis", [0, 1])
def test_what_meets_halves_of_a_parameter_that_are_put_together_stays(law, axis, made):
    assert sizes(law(Halved(axis, made), torch.randn(TOKENS))) == {"enter": 8}
