"""Tensors that the code fills itself: as wide as the channels, but with nothing of theirs in them."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from search_spaces import prune, trace, verify


class Scaled(nn.Module):
    """Convolutions, and something that is worked out of what the second makes."""

    def __init__(self, then):
        super().__init__()
        self.dim = 16
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, self.dim, 3)
        self.then, self.head = then, nn.Linear(self.dim, 5)

    def forward(self, x):
        x = self.second(self.first(x).relu()).view(x.shape[0], self.dim, -1)
        return self.head(self.then(self, x).mean(-1))


def ones(s, x):
    return torch.ones(x.shape[0], s.dim, 1)


def overwritten(s, x):
    found = x.clone()
    found[:] = 1.0
    return x * found.sum(1, keepdim=True)


def partly(s, x):
    found = x.clone()
    found[:, :, 0] = 1.0
    return x * found.sum(1, keepdim=True)


NUMBERS = {
    "of a size": lambda s, x: x * torch.ones(s.dim).sum(),
    "of a part of it": lambda s, x: x * torch.ones(s.dim // 4).sum(),
    "of a count": lambda s, x: x * torch.ones(x.shape[1]).sum(),
    "new": lambda s, x: x * x.new_ones(x.shape[1]).sum(),
    "like": lambda s, x: x * torch.ones_like(x[0, :, 0]).sum(),
    "filled": lambda s, x: x * x.clone().fill_(0.5).sum(1, keepdim=True),
    "zeroed": lambda s, x: x * x.clone().zero_().exp().sum(1, keepdim=True),
    "worked on": lambda s, x: x * (2 * torch.ones_like(x) + 1).relu().sum(1, keepdim=True),
    "moved": lambda s, x: x * torch.ones(s.dim)[None, :, None].expand_as(x).norm(),
    "shares": lambda s, x: x * ones(s, x).softmax(1),
    "a product": lambda s, x: x * (ones(s, x).transpose(1, 2) @ ones(s, x)),
    "added to a product": lambda s, x: (
        x * torch.addmm(torch.zeros(2, 2), ones(s, x)[..., 0], ones(s, x)[..., 0].t()).sum()
    ),
    "a loss": lambda s, x: x * F.mse_loss(torch.ones_like(x), torch.zeros_like(x), reduction="sum"),
    "positions": lambda s, x: x * torch.ones_like(x).cumsum(1),
    "with what has no channels": lambda s, x: x * (torch.ones_like(x) * x.mean(1, keepdim=True)).sum(1, keepdim=True),
    "given to every channel": lambda s, x: x * x.mean(1, keepdim=True).expand(-1, x.shape[1], -1).sum(1, keepdim=True),
    "beside data": lambda s, x: x * torch.cat([x, torch.ones_like(x)], 1).sum(1, keepdim=True),
    "beside data, as a token": lambda s, x: x * torch.cat([x, ones(s, x)], 2).sum(1)[:, None, -1:],
    "stacked with data": lambda s, x: x * torch.stack([x, torch.ones_like(x)]).sum(2).sum(0)[:, None],
    "chosen": lambda s, x: x * torch.where(x.mean(1, keepdim=True) > 0, torch.ones_like(x), x).sum(1, keepdim=True),
    "written": overwritten,
    "written in part": partly,
    "read by a layer": lambda s, x: x + s.head(torch.ones_like(x).mean(-1)).sum(),
    "read by a product": lambda s, x: x + (torch.ones_like(x).mean(-1) @ s.head.weight.t()).sum(),
}


@pytest.mark.parametrize("then", NUMBERS.values(), ids=NUMBERS)
def test_channels_of_which_it_tells_how_many_there_are_stay(then):
    space = trace(Scaled(then).eval(), torch.randn(2, 3, 8, 8))
    assert [g.name for g in space.groups] == ["first"]


def test_the_reason_is_said():
    space = trace(Scaled(NUMBERS["like"]).eval(), torch.randn(2, 3, 8, 8))
    (reason,) = (g.frozen_because for g in space.frozen if g.name == "second")
    assert reason == "sum of a tensor without data in the model tells how many there are"


def written(s, x):
    state = torch.zeros(x.shape[0], s.dim)
    state[:] = x.mean(-1)
    return x * state.sum(1)[:, None, None]


def shifted(s, x):
    before = torch.cat([torch.zeros_like(x[:, :, :1]), x[:, :, :-1]], 2)
    return x * before.square().mean(1, keepdim=True)


def recurrent(s, x):
    state = torch.zeros_like(x[:, :, 0])
    for step in range(3):
        state = (x[:, :, step] + s.head(state).sum(1, keepdim=True)).tanh()
    return x * state[..., None]


def added(s, x):
    state = torch.zeros_like(x)
    state += x
    return x * state.sum(1, keepdim=True)


DATA = {
    "added to": lambda s, x: x * (ones(s, x) + x).sum(1, keepdim=True),
    "written to": written,
    "added in place": added,
    "weights of a sum": lambda s, x: x * (ones(s, x).transpose(1, 2) @ x),
    "along positions": lambda s, x: x * torch.ones_like(x).sum(2, keepdim=True),
    "zeros beside it": shifted,
    "an average of what is the same": lambda s, x: x * torch.full_like(x, 0.5).mean(1, keepdim=True),
    "the greatest of it": lambda s, x: x * x.mean(1, keepdim=True).expand(-1, x.shape[1], -1).amax(1, keepdim=True),
    "zeros read by a layer": recurrent,
    "distances": lambda s, x: x * torch.cdist(x.transpose(1, 2), torch.ones_like(x).transpose(1, 2)).mean(),
    "noise": lambda s, x: (x + 0 * torch.randn_like(x)) * x.std(1, keepdim=True),
}


@pytest.mark.parametrize("then", DATA.values(), ids=DATA)
def test_what_has_data_in_it_is_a_statistic_of_the_channels(law, then):
    space = law(Scaled(then), torch.randn(2, 3, 8, 8))
    assert [g.name for g in space.groups] == ["first", "second"]


class StateSpace(nn.Module):
    """A state [batch, heads, width of a head, states], as in Mamba-2 (Dao and Gu 2024)."""

    def __init__(self, outer, heads=4, width=3, states=5):
        super().__init__()
        self.nheads, self.headdim, self.d_state, self.d_inner = heads, width, states, heads * width
        self.entry, self.norm, self.outer = nn.Linear(6, 10), nn.LayerNorm(10), outer
        self.x, self.decay = nn.Linear(10, self.d_inner), nn.Linear(10, heads)
        self.b, self.c = nn.Linear(10, states), nn.Linear(10, states)
        self.out, self.head = nn.Linear(self.d_inner, 10), nn.Linear(10, 4)

    def forward(self, tokens):
        u = self.norm(self.entry(tokens))
        batch, length, _ = u.shape
        x = self.x(u).view(batch, length, self.nheads, self.headdim)
        decay, b, c = self.decay(u).sigmoid(), self.b(u), self.c(u)
        state = torch.zeros(batch, self.nheads, self.headdim, self.d_state)
        steps = []
        for t in range(length):
            state = state * decay[:, t, :, None, None] + self.outer(x[:, t], b[:, t])
            steps.append(torch.einsum("bhpn,bn->bhp", state, c[:, t]).reshape(batch, self.d_inner))
        return self.head(u + self.out(torch.stack(steps, 1)))


OUTER = {
    "broadcast": lambda x, b: x[..., None] * b[:, None, None, :],
    "turned": lambda x, b: b[:, None, None, :] * x[..., None],
    "einsum": lambda x, b: torch.einsum("bhp,bn->bhpn", x, b),
    "product": lambda x, b: x[..., None] @ b[:, None, None, :],
}


@pytest.mark.parametrize("states", [2, 5, 11])
@pytest.mark.parametrize("outer", OUTER.values(), ids=OUTER)
def test_a_state_of_heads_shrinks_by_whole_heads(law, outer, states):
    space = law(StateSpace(outer, states=states), torch.randn(2, 4, 6))
    assert {g.name: (g.size, len(g.members[0].index.ravel()) // g.size) for g in space.groups}["x"] == (4, 3)
    net = prune(StateSpace(outer, states=states), space, [np.arange(max(g.size // 2, 1)) for g in space.groups])
    assert (net.nheads, net.headdim, net.d_state, net.x.out_features, net.decay.out_features) == (2, 3, states, 6, 2)


class Scan(nn.Module):
    """A selective scan as in Mamba (Gu and Dao 2023): its state is as wide as the channels, and as one table."""

    def __init__(self, wide=12, states=4):
        super().__init__()
        self.entry, self.table, self.states = nn.Linear(6, wide), nn.Parameter(torch.rand(wide, states)), states
        self.b, self.head = nn.Linear(wide, states), nn.Linear(wide, 4)

    def forward(self, x):
        x = self.entry(x)
        b, decay = self.b(x), -self.table.float().exp()
        state = torch.zeros(x.shape[0], x.shape[2], decay.shape[-1])
        out = []
        for t in range(x.shape[1]):
            state = state * decay.exp() + x[:, t, :, None] * b[:, t, None]
            out.append(state.sum(-1))
        return self.head(torch.stack(out, 1).relu())


def test_a_state_of_channels_and_counted_states(law):
    space = law(Scan(), torch.randn(2, 5, 6))
    assert [g.name for g in space.groups] == ["entry"]
    assert ("table", 0) in {(m.tensor, m.axis) for m in space.groups[0].members}


class Joined(nn.Module):
    """Linear layers, and tokens of which as many are laid beside as `then` says: none."""

    def __init__(self, then):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.token, self.dim, self.then = nn.Parameter(torch.randn(1, 1, 8)), 8, then

    def forward(self, x):
        y = self.second(self.first(x).relu())
        return self.head(torch.cat(self.then(self, y), 1).relu().mean(1))


NOTHING = {
    "repeated": lambda s, y: [y, s.token.repeat(len(y), 0, 1)],
    "a slice": lambda s, y: [s.token.expand(len(y), 3, -1)[:, :0], y],
    "own": lambda s, y: y.split([5, 0], 1),
    "of a count": lambda s, y: [y, y.new_zeros(len(y), 0, y.shape[2])],
    "of a size": lambda s, y: [y, torch.zeros(len(y), 0, s.dim)],
    "of any size": lambda s, y: [torch.zeros(0), y],
    "along the channels": lambda s, y: [torch.cat([y, y[:, :, :0]], 2)],
}


@pytest.mark.parametrize("then", NOTHING.values(), ids=NOTHING)
def test_a_tensor_without_elements_has_the_channels_it_is_laid_beside(law, then):
    space = law(Joined(then), torch.randn(2, 5, 6), seeds=(0,))
    assert [g.name for g in space.groups] == ["first", "second"]
    token = {m.tensor for g in space.groups for m in g.members if m.tensor == "token"}
    assert token == ({"token"} if then in (NOTHING["repeated"], NOTHING["a slice"]) else set())


@pytest.mark.parametrize(
    "then",
    [
        lambda s, y: [y, torch.zeros(2, 0, 8)],
        lambda s, y: [y, s.token.repeat(2, 0, 1) * 2],
        lambda s, y: [torch.cat([y.mT, s.token.repeat(2, 0, 1).mT], 2).mT],
    ],
)
def test_a_tensor_without_elements_whose_sizes_are_not_followed_keeps_them(law, then):
    space = law(Joined(then), torch.randn(2, 5, 6), seeds=(0,))
    assert [g.name for g in space.groups] == ["first"]
    (reason,) = (g.frozen_because for g in space.frozen if g.name == "second")
    assert reason == "cat in the model lays it beside a constant of fixed size"


class Read(nn.Module):
    """The same, where a layer has been given no tokens."""

    def __init__(self, then):
        super().__init__()
        self.first, self.second, self.other = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(6, 8)
        self.norm, self.head, self.then = nn.LayerNorm(8), nn.Linear(8, 4), then

    def forward(self, x):
        nothing = self.then(self, self.other(x[:, :0]))
        return self.head(torch.cat([self.second(self.first(x).relu()), nothing], 1).relu().mean(1))


@pytest.mark.parametrize(
    ("then", "groups"),
    [
        (lambda s, y: y, ["other", "first"]),
        (lambda s, y: y.relu(), ["first"]),
        (lambda s, y: s.norm(y), ["first"]),
        (lambda s, y: s.second(y), ["second"]),
    ],
    ids=["at once", "by itself", "normalised", "twice"],
)
def test_layers_that_read_a_tensor_without_elements(law, then, groups):
    """What such a layer makes has its channels; what is made of that otherwise keeps its size."""
    space = law(Read(then), torch.randn(2, 5, 6), seeds=(0,))
    assert [g.name for g in space.groups] == groups


SUMS = {
    "all": lambda s, y: y.sum(),
    "channels": lambda s, y: y.amax(2).sum(),
    "norm": lambda s, y: y.norm(),
    "axis without elements": lambda s, y: y.sum(1).mean(),
    "product": lambda s, y: (y @ torch.ones(8, 3)).sum(),
    "loss": lambda s, y: F.mse_loss(y, y.detach(), reduction="sum"),
}


@pytest.mark.parametrize("then", SUMS.values(), ids=SUMS)
def test_sums_over_a_tensor_without_elements(then):
    """They are a number, whatever is pruned; its channels stay, for want of a value to follow."""

    class Summed(Read):
        def forward(self, x):
            x = self.first(x).relu()
            return self.head(self.second(x).relu().mean(1)) + self.then(self, x[:, :0])

    net, x = Summed(then).eval(), torch.randn(2, 5, 6)
    space = trace(net, x)
    verify(net, space, x)
    assert "first" in {g.name for g in space.frozen}
    assert [g.name for g in space.groups] == ["second"]


def test_a_parameter_without_elements_has_the_channels_it_is_laid_beside(law):
    net = Joined(lambda s, y: [s.token.expand(len(y), -1, -1), y])
    net.token = nn.Parameter(torch.empty(1, 0, 8))
    space = law(net, torch.randn(2, 5, 6), seeds=(0,))
    assert [g.name for g in space.groups] == ["first", "second"]


USED = {
    "multiplied": lambda s, y: y + (y[:, :0].mT @ y[:, :0]).sum(),
    "attended to": lambda s, y: y + F.scaled_dot_product_attention(y[:, :0], y, y).sum(),
    "their number": lambda s, y: y * y[:0].shape[2],
}


@pytest.mark.parametrize("then", USED.values(), ids=USED)
def test_the_channels_of_a_tensor_without_elements_that_is_used_stay(law, then):
    space = law(Joined(lambda s, y: [then(s, y)]), torch.randn(2, 5, 6), seeds=(0,))
    assert [g.name for g in space.groups] == ["first"]
