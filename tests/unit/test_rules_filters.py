"""What the code gives to each channel or head: filters of depthwise convolutions (blurs, wavelets), shared keys."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from search_spaces import prune

BINOMIAL = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])


class Filtered(nn.Module):
    """A function with one filter of its own: a buffer `blur`, a parameter `learned`, and how many `channels`."""

    def __init__(self, function):
        super().__init__()
        self.function, self.channels = function, 8
        self.register_buffer("blur", BINOMIAL[None, None] / 16)
        self.learned = nn.Parameter(torch.randn(1, 1, 3, 3))

    def forward(self, x):
        return self.function(self, x)


def depthwise(x, filters, **options):
    return F.conv2d(x, filters, groups=x.shape[1], **options)


def sobel(s, x):
    return depthwise(x, torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]).view(1, 1, 3, 3).to(x).repeat(8, 1, 1, 1))


def haar(s, x):
    pair = torch.tensor([[[1.0, 1], [1, 1]], [[1, -1], [1, -1]]])[:, None]
    return depthwise(x, pair.to(x).repeat(x.shape[1], 1, 1, 1), stride=2)


def correlated(s, x):
    """Each sample's own filters (Siamese trackers)."""
    filters = x[:, :, :3, :3].reshape(-1, 1, 3, 3)
    return F.conv2d(x.reshape(1, -1, *x.shape[2:]), filters, groups=x.shape[0] * x.shape[1]).view(*x.shape[:2], 6, 6)


FILTERS = {
    "repeat": lambda s, x: depthwise(x, s.blur.repeat(x.shape[1], 1, 1, 1)),
    "expand": lambda s, x: depthwise(x, s.blur.expand(x.shape[1], 1, -1, -1), padding=1, stride=2),
    "turned about": lambda s, x: depthwise(x, s.blur.expand(-1, x.shape[1], -1, -1).reshape(-1, 1, 3, 3)),
    "scaled": lambda s, x: depthwise(x, 2 * s.blur.repeat(x.size(1), 1, 1, 1)),
    "learned": lambda s, x: depthwise(x, s.learned.expand(x.shape[1], 1, 3, 3)),
    "filled": lambda s, x: depthwise(x, torch.ones(x.shape[1], 1, 3, 3) / 9, bias=torch.zeros(x.shape[1])),
    "constant": lambda s, x: depthwise(x, torch.eye(3).to(x)[None, None].repeat(x.shape[1], 1, 1, 1)),
    "an attribute": lambda s, x: F.conv2d(x, s.blur.repeat(s.channels, 1, 1, 1), groups=s.channels),
    "transposed": lambda s, x: F.conv_transpose2d(
        x, s.blur.repeat(x.shape[1], 1, 1, 1), stride=2, groups=x.shape[1]
    ),
    "correlated": correlated,
}  # fmt: skip


@pytest.mark.parametrize("function", FILTERS.values(), ids=FILTERS)
def test_each_channel_has_its_filter(law, toy, function):
    body = {"a": toy.conv(), "k": Filtered(function), "b": toy.conv()}
    space = law(toy(lambda s, x: s.b(s.k(s.a(x).relu())), **body), torch.randn(2, 3, 8, 8), seeds=(0,))
    assert {g.name: g.size for g in space.groups} == {"stem.0": 8, "body.a": 8, "body.b": 8, "head": 6}


def test_several_filters_for_each_channel(law, toy):
    net = toy(lambda s, x: s.b(s.k(s.a(x).relu())), a=toy.conv(), k=Filtered(haar), b=toy.conv(16, 8))
    space = law(net, torch.randn(2, 3, 8, 8), seeds=(0,))
    assert {g.name: g.size for g in space.groups} == {"stem.0": 8, "body.a": 8, "body.b": 8, "head": 6}
    pruned = prune(net, space, [np.arange(g.size)[:3] for g in space.groups])
    assert pruned.body.b.in_channels == 6  # two of each


@pytest.mark.parametrize("function", [sobel, lambda s, x: F.conv2d(x, s.blur.repeat(8, 8, 1, 1))])
def test_numbers_written_in_the_code_keep_the_channels(law, toy, function):
    net = toy(lambda s, x: s.b(s.k(s.a(x).relu())), a=toy.conv(), k=Filtered(function), b=toy.conv())
    space = law(net, torch.randn(2, 3, 8, 8), seeds=(0,))
    assert [g.name for g in space.groups] == ["stem.0", "body.b", "head"]


class Latent(nn.Module):
    """Attention whose keys have a part that all heads share (DeepSeek-V2, https://arxiv.org/abs/2405.04434)."""

    def __init__(self, spread):
        super().__init__()
        self.heads, self.part, self.spread = 4, 3, spread
        self.entry, self.query = nn.Linear(6, 10), nn.Linear(10, 4 * 6)
        self.own, self.shared, self.value = nn.Linear(10, 4 * 3), nn.Linear(10, 3), nn.Linear(10, 4 * 5)
        self.out, self.head = nn.Linear(4 * 5, 10), nn.Linear(10, 4)

    def forward(self, x):
        x = self.entry(x)
        query, own, value = (
            layer(x).view(*x.shape[:2], self.heads, -1).transpose(1, 2) for layer in (self.query, self.own, self.value)
        )
        key = torch.cat([own, self.spread(self.shared(x)[:, None], own)], -1)
        y = (query @ key.mT).softmax(-1) @ value
        return self.head(x + self.out(y.transpose(1, 2).flatten(2)))


@pytest.mark.parametrize(
    "spread",
    [
        lambda shared, own: shared.expand(*own.shape[:-1], -1),
        lambda shared, own: shared.expand(-1, own.shape[1], shared.shape[2], shared.shape[3]),
        lambda shared, own: shared.repeat(1, own.shape[1], 1, 1),
    ],
)
def test_what_all_heads_share_stays_and_they_go(law, spread):
    space = law(Latent(spread), torch.randn(2, 5, 6), seeds=(0,))
    assert {g.name: g.size for g in space.groups} == {"entry": 10, "query": 4}


class OwnFilters(nn.Module):
    """A depthwise convolution whose weight the code takes from the layer, and turns about or works on."""

    def __init__(self, weight, groups):
        super().__init__()
        self.conv, self.weight, self.groups = nn.Conv2d(8, 8, 3, groups=8), weight, groups
        self.scale = nn.Parameter(torch.rand(8, 1, 1, 1) + 0.5)

    def forward(self, x):
        return F.conv2d(x, self.weight(self), self.conv.bias, groups=self.groups(self, x))


@pytest.mark.parametrize(
    "weight",
    [
        lambda s: s.conv.weight.squeeze(1).unsqueeze(1),
        lambda s: s.conv.weight[:, 0][:, None],
        lambda s: s.conv.weight * s.scale,
        lambda s: s.conv.weight - s.conv.weight.mean((2, 3), keepdim=True),
    ],
    ids=["squeezed", "indexed", "scaled", "centred"],
)
@pytest.mark.parametrize(
    "groups",
    [lambda s, x: x.shape[1], lambda s, x: s.conv.groups, lambda s, x: s.conv.weight.squeeze(1).shape[0]],
    ids=["counted", "of the layer", "of the weight"],
)
def test_filters_of_a_layer_that_the_code_turns_about(law, toy, weight, groups):
    net = toy(lambda s, x: s.b(s.k(s.a(x).relu())), a=toy.conv(), k=OwnFilters(weight, groups), b=toy.conv())
    space = law(net, torch.randn(2, 3, 8, 8), seeds=(0,))
    assert {g.name: g.size for g in space.groups} == {"stem.0": 8, "body.a": 8, "body.b": 8, "head": 6}
    pruned = prune(net, space, [np.arange(g.size)[:3] for g in space.groups])
    assert (pruned.body.k.conv.groups, pruned.body.k.conv.weight.shape) == (3, (3, 1, 3, 3))
