"""Layers that say how they shrink are priced at every width: as what is left of them costs."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from objectives.costs import Activations, Macs, Params
from search_spaces import prune, trace, verify


class Mixer(nn.Module):
    """One weight [out, in], a bias [out]."""

    def __init__(self, reads=12, makes=9):
        super().__init__()
        self.in_channels, self.out_channels = reads, makes
        self.weight, self.bias = nn.Parameter(torch.randn(makes, reads)), nn.Parameter(torch.randn(makes))

    def forward(self, x):
        return F.conv2d(x, self.weight[:, :, None, None], self.bias)

    def shrink(self, kept_in, kept_out):
        self.weight = nn.Parameter(self.weight.detach()[kept_out][:, kept_in])
        self.bias = nn.Parameter(self.bias.detach()[kept_out])
        self.in_channels, self.out_channels = len(kept_in), len(kept_out)


class Squeezed(nn.Module):
    """Through a middle of fixed width, in a convolution of 3 x 3 and one of 1 x 1; three filters for each channel."""

    def __init__(self, reads=12, makes=9, middle=5):
        super().__init__()
        self.in_channels, self.out_channels = reads, makes
        self.narrow, self.mix = nn.Conv2d(reads, middle, 3, padding=1), nn.Conv2d(middle, middle, 1)
        self.wide = nn.Conv2d(middle, 3 * makes, 1)

    def forward(self, x):
        return self.wide(self.mix(self.narrow(x)).relu()).unflatten(1, (-1, 3)).sum(2)

    def shrink(self, kept_in, kept_out):
        rows = (3 * torch.as_tensor(kept_out)[:, None] + torch.arange(3)).flatten()
        self.narrow.weight = nn.Parameter(self.narrow.weight.detach()[:, kept_in])
        self.wide.weight = nn.Parameter(self.wide.weight.detach()[rows])
        self.wide.bias = nn.Parameter(self.wide.bias.detach()[rows])
        self.in_channels, self.out_channels = len(kept_in), len(kept_out)


class Net(nn.Module):
    def __init__(self, layer, calls=1):
        super().__init__()
        self.first, self.layer, self.last = nn.Conv2d(3, 12, 3), layer, nn.Conv2d(9, 4, 1)
        self.calls = calls

    def forward(self, x):
        x = self.first(x)
        return sum(self.last(self.layer(x[..., n:, :])).mean((2, 3)) for n in range(self.calls))


IMAGES = torch.randn(2, 3, 8, 8)
PIXELS = 36  # of an image, after the first layer
HAND = {
    Mixer: (lambda i, o: PIXELS * i * o, lambda i, o: i * o + o),
    Squeezed: (
        lambda i, o: PIXELS * (9 * i * 5 + 5 * 5 + 5 * 3 * o),
        lambda i, o: 9 * i * 5 + 5 + 5 * 5 + 5 + 5 * 3 * o + 3 * o,
    ),
}


@pytest.mark.parametrize("kind", HAND)
@pytest.mark.parametrize("widths", [(12, 9), (7, 9), (12, 4), (5, 2), (1, 1)])
def test_costs_are_those_worked_out_by_hand(kind, widths):
    net = Net(kind()).eval()
    space = trace(net, IMAGES)
    assert {g.name: g.size for g in space.groups} == {"first": 12, "layer": 9}
    verify(net, space, IMAGES)
    (macs, params), (i, o) = HAND[kind], widths
    others = PIXELS * (27 * i + 4 * o), 28 * i + 4 * o + 4
    assert Macs(space)(widths) == pytest.approx(macs(i, o) + others[0], rel=1e-9)
    assert Params(space)(widths) == params(i, o) + others[1]
    left = prune(net, space, [np.arange(n) for n in widths])
    assert sum(p.numel() for p in left.parameters()) == Params(space)(widths)


class Shifted(Mixer):
    """Its work goes with the channels that it reads; what it makes is a scaled sum of these."""

    def forward(self, x):
        ones = torch.ones(1, x.shape[1], 1, 1)
        return F.conv2d(x, ones) * self.bias[:, None, None]


@pytest.mark.parametrize("kind", [Mixer, Squeezed, Shifted])
def test_its_answer_is_an_activation(kind):
    space = trace(Net(kind()).eval(), IMAGES)
    further = {Mixer: 0, Squeezed: 2, Shifted: 1}[kind]  # parts of its multiply-adds, of one activation each
    assert Activations(space)((7, 4)) == PIXELS * (7 + 4 + 4) + further


def test_each_call_is_counted():
    once, twice = (trace(Net(Mixer(), calls).eval(), IMAGES) for calls in (1, 2))
    more = 30 * (12 * 9 + 4 * 9)  # the second one sees a row less
    assert Macs(twice)((12, 9)) - Macs(once)((12, 9)) == pytest.approx(more)


def test_a_shrunk_one_is_priced_as_it_is():
    net = Net(Mixer()).eval()
    space = trace(net, IMAGES)
    left = prune(net, space, [np.arange(0, 12, 2), np.arange(1, 9, 2)])
    again = trace(left, IMAGES)
    assert Macs(again)(again.full) == pytest.approx(Macs(space)((6, 4)))


class Square(Mixer):
    """Of each pair of input channels the product: its work grows with the square."""

    def forward(self, x):
        pairs = torch.einsum("nihw,njhw->nij", x, x).mean((1, 2))
        return super().forward(x) + pairs[:, None, None, None]


class Stubborn(Mixer):
    """Cannot be shrunk on one side only."""

    def shrink(self, kept_in, kept_out):
        if (len(kept_in) == 12) != (len(kept_out) == 9):
            raise RuntimeError("both or none")
        super().shrink(kept_in, kept_out)


@pytest.mark.parametrize("kind", [Square, Stubborn])
def test_what_cannot_be_told_costs_as_much_as_all_of_it(kind):
    """So a budget holds."""
    whole = trace(Net(kind()).eval(), IMAGES)
    fixed = Macs(whole)((12, 9)) - PIXELS * (27 * 12 + 4 * 9)
    assert Macs(whole)((6, 4)) == pytest.approx(fixed + PIXELS * (27 * 6 + 4 * 4))
    assert fixed >= PIXELS * 12 * 9


@pytest.mark.parametrize("kind", [Square, Stubborn])
def test_the_answer_of_what_cannot_be_told_is_one_of_all_channels(kind):
    assert Activations(trace(Net(kind()).eval(), IMAGES))((7, 4)) == PIXELS * (7 + 9 + 4)


def test_the_module_is_left_as_it_is():
    class Normed(Mixer):
        def __init__(self):
            super().__init__()
            self.norm, self.calls = nn.BatchNorm2d(9), 0

        def forward(self, x):
            self.calls += 1
            return self.norm(super().forward(x)) if x.shape[1] == 12 else super().forward(x)

    net = Net(Normed()).train()
    trace(net, IMAGES)
    assert net.layer.norm.num_batches_tracked == 0
    assert net.layer.training
    assert (net.layer.weight.shape, net.layer.in_channels) == ((9, 12), 12)


class Named(Net):
    def forward(self, x):
        return self.last(self.layer(x=self.first(x))).mean((2, 3))


def test_its_input_may_be_given_by_name(law):
    assert {g.name: g.size for g in law(Named(Mixer()), IMAGES).groups} == {"first": 12, "layer": 9}
