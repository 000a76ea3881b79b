"""Movement and sizes: what concatenation, splits, views, slices and padding couple, and what a written size freezes."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from search_spaces import trace

IMAGE = (2, 3, 8, 8)


def sizes(space):
    return {g.name: g.size for g in space.groups}


def reasons(space):
    return {g.name: g.frozen_because for g in space.frozen if g.frozen_because != "output of the network"}


def members(space, name):
    group = next(g for g in space.groups if g.name == name)
    return {(m.tensor, m.axis): m.index.tolist() for m in group.members}


class Flat(nn.Module):
    """conv (3 -> 4) on 5 x 5 -> 3 x 3, flattened by a function, -> linear -> linear."""

    def __init__(self, function):
        super().__init__()
        self.conv, self.function = nn.Conv2d(3, 4, 3), function
        self.fc, self.out = nn.Linear(36, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.out(F.relu(self.fc(self.function(F.relu(self.conv(x))))))


def test_concat_of_unequal_parts(law, toy):
    space = law(
        toy(lambda s, x: torch.cat([s.a(x), x, s.b(x)], 1), out=17, a=toy.conv(8, 4), b=toy.conv(8, 5)),
        torch.randn(IMAGE),
    )
    assert sizes(space) == {"stem.0": 8, "body.a": 4, "body.b": 5, "head": 6}
    assert members(space, "stem.0")["head.weight", 1] == [[4 + i] for i in range(8)]
    assert members(space, "body.b")["head.weight", 1] == [[12 + i] for i in range(5)]


def test_dense_connectivity(law, toy):
    def function(s, x):
        y = torch.cat([x, F.relu(s.a(x))], 1)
        return torch.cat([y, F.relu(s.b(s.norm(y)))], 1)

    space = law(toy(function, out=14, a=toy.conv(8, 3), b=toy.conv(11, 3), norm=nn.BatchNorm2d(11)), torch.randn(IMAGE))
    assert sizes(space) == {"stem.0": 8, "body.a": 3, "body.b": 3, "head": 6}


def test_channel_shuffle_by_hand(law, toy):
    def function(s, x):
        batch, channels, height, width = x.shape
        return x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, -1, height, width)

    space = law(toy(function), torch.randn(IMAGE))
    assert sizes(space) == {"stem.0": 4, "head": 6}  # the two groups keep as many
    assert members(space, "stem.0")["head.weight", 1] == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_channel_shuffle_module(law, toy):
    space = law(toy(lambda s, x: s.shuffle(x), shuffle=nn.ChannelShuffle(2)), torch.randn(IMAGE))
    assert sizes(space) == {"stem.0": 4, "head": 6}


@pytest.mark.parametrize(
    "parts",
    [
        lambda x: x.chunk(2, 1),
        lambda x: torch.chunk(x, chunks=2, dim=1),
        lambda x: x.tensor_split(2, dim=1),
        lambda x: x.split(x.shape[1] // 2, 1),
        lambda x: torch.split(x, [x.size(1) // 2, x.size(1) // 2], dim=1),
        lambda x: (x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]),
        lambda x: (x.narrow(1, 0, x.shape[1] // 2), x.narrow(1, x.shape[1] // 2, x.shape[1] // 2)),
    ],
)
def test_halves_keep_as_many(law, toy, parts):
    def function(s, x):
        a, b = parts(x)
        return torch.cat([a, s.a(b)], 1)

    assert sizes(law(toy(function, out=9, a=toy.conv(4, 5)), torch.randn(IMAGE))) == {
        "stem.0": 4,
        "body.a": 5,
        "head": 6,
    }


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        (lambda x: x.split(4, 1), "split(4, 4) is written in the code of 'body'"),
        (lambda x: (x[:, :4], x[:, 4:]), "the index [:4] on its channels is written in the code of 'body'"),
        (lambda x: x.chunk(3, 1)[:2], "chunk in 'body' splits it unevenly or beside a constant"),
        (lambda x: (x[:, [0, 2]], x[:, ::2]), "the index [an index] on its channels is written in the code of 'body'"),
        (lambda x: (x[:, -4::2], x), "the index [-4::2] on its channels is written in the code of 'body'"),
        (lambda x: (x[:, 1:2], x), "the index [1:2] on its channels is written in the code of 'body'"),
        (lambda x: (x.roll(1, 1), x), "roll over the channels in 'body'"),
    ],
)
def test_written_parts_freeze(law, toy, parts, reason):
    def function(s, x):
        return torch.cat(parts(x), 1)

    with torch.no_grad():
        out = function(None, torch.zeros(1, 8, 1, 1)).shape[1]
    assert reasons(law(toy(function, out=out), torch.randn(IMAGE))) == {"stem.0": reason}


def test_a_concat_split_by_the_sizes_of_its_parts(law, toy):
    def function(s, x):
        a, b = s.a(x), s.b(x)
        first, second = torch.cat([a, b], 1).split([a.shape[1], b.shape[1]], 1)
        return s.c(F.relu(first)) + s.d(F.relu(second))

    parts = {"a": toy.conv(8, 3), "b": toy.conv(8, 5), "c": toy.conv(3, 8), "d": toy.conv(5, 8)}
    space = law(toy(function, **parts), torch.randn(IMAGE))
    assert sizes(space) == {"stem.0": 8, "body.a": 3, "body.b": 5, "body.c": 8, "head": 6}


def test_parts_as_wide_as_other_channels_beside_one_of_written_size(law, toy):
    """Focal modulation."""

    def function(s, x):
        query, context, gate = s.a(x).split((x.shape[1], x.shape[1], 1), 1)
        return s.c(query.sigmoid() * s.b(context) * gate)

    space = law(toy(function, a=toy.conv(8, 17), b=toy.conv(8, 8), c=toy.conv(8, 8)), torch.randn(IMAGE))
    assert sizes(space) == {"stem.0": 8, "body.c": 8, "head": 6}
    assert reasons(space) == {"body.a": "split(8, 8, 1) is written in the code of 'body'"}


def test_patches_and_back(law, toy):
    """What F.unfold lays out F.fold adds up again: outlook attention (VOLO)."""
    space = law(toy(lambda s, x: F.fold(s.a(x).tanh().flatten(2), (9, 9), 2), a=toy.conv(8, 32)), torch.randn(IMAGE))
    assert sizes(space) == {"stem.0": 8, "body.a": 8, "head": 6}  # four rows for each of eight channels


def test_temporal_shift(law, toy):
    def function(s, x):
        fold = x.shape[1] // 4
        out = torch.zeros_like(x)
        out[:-1, :fold] = x[1:, :fold]
        out[1:, fold : 2 * fold] = x[:-1, fold : 2 * fold]
        out[:, 2 * fold :] = x[:, 2 * fold :]
        return out

    assert sizes(law(toy(function), torch.randn(IMAGE))) == {"stem.0": 2, "head": 6}  # four quarters of two


def test_assignment_at_written_places_freezes(law, toy):
    def function(s, x):
        out = torch.zeros_like(x)
        out[:, :4] = x[:, 4:]
        return out

    assert "is written in the code of 'body'" in reasons(law(toy(function), torch.randn(IMAGE)))["stem.0"]


def test_pixel_shuffle_and_back(law, toy):
    body = nn.Sequential(toy.conv(8, 12), nn.PixelShuffle(2), nn.ReLU(), nn.PixelUnshuffle(2), nn.AvgPool2d(2))
    space = law(toy(lambda s, x: s.b(x), out=12, b=body), torch.randn(IMAGE))
    assert sizes(space) == {"stem.0": 8, "body.b.0": 3, "head": 6}


def test_pixel_shuffle_before_a_layer_or_a_pool(law, toy):
    for tail in (toy.conv(3, 8, 1), nn.Sequential(nn.AdaptiveAvgPool2d(3), toy.conv(3, 8, 1))):
        space = law(
            toy(lambda s, x: s.b(x), b=nn.Sequential(toy.conv(8, 12), nn.PixelShuffle(2), tail)), torch.randn(IMAGE)
        )
        assert sizes(space) == {"stem.0": 8, "body.b.0": 3, space.groups[2].name: 8, "head": 6}


def test_space_to_depth_by_slices(law, toy):
    def function(s, x):
        return torch.cat([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)

    space = law(toy(function, out=32), torch.randn(IMAGE))
    assert members(space, "stem.0")["head.weight", 1] == [[i, 8 + i, 16 + i, 24 + i] for i in range(8)]


@pytest.mark.parametrize(
    "flatten",
    [
        lambda x: x.flatten(1),
        lambda x: x.view(x.shape[0], -1),
        lambda x: x.reshape(-1, x.size(1) * x.size(2) * x.size(3)),
        lambda x: x.view(x.shape[0], math.prod(x.shape[1:])),
        lambda x: x.view(x.shape[0], np.prod(x.shape[1:])),
        lambda x: x.view(x.shape[0], divmod(x.numel(), x.shape[0])[0]),
        lambda x: x.view(-1, x.stride(0)),
        lambda x: x.view(x.shape[0], x.numel() // x.shape[0]),
    ],
)
def test_flatten_to_linear(law, flatten):
    space = law(Flat(flatten), torch.randn(2, 3, 5, 5))
    assert sizes(space) == {"conv": 4, "fc": 5}
    assert members(space, "conv")["fc.weight", 1] == [list(range(9 * i, 9 * i + 9)) for i in range(4)]


@pytest.mark.parametrize(
    ("flatten", "reason"),
    [
        (lambda x: x.view(-1, 36), "view(-1, 36) is written in the code of the model"),
        (lambda x: x.view(x.shape[0], int(np.prod(x.shape[1:]))), "their number enters int() in the model"),
        (lambda x: x.view(x.shape[0], x.shape[1:].numel()), "view(2, 36) is written in the code of the model"),
        (lambda x: x.view(2, np.ones(x.shape[1:]).size), "their number enters ones() in the model"),
        (lambda x: x.view(2, np.eye(x.shape[1]).size // 16 * 36), "their number enters eye() in the model"),
        (lambda x: x.flatten(1) * np.full(2, x.shape[1]).sum(), "their number enters full() in the model"),
        (lambda x: x.view(2, 4, -1).reshape(2, -1), "view(2, 4, -1) is written in the code of the model"),
    ],
)
def test_written_sizes_freeze(law, flatten, reason):
    space = law(Flat(flatten), torch.randn(2, 3, 5, 5))
    assert sizes(space) == {"fc": 5}
    assert reasons(space) == {"conv": reason}


def test_unflatten_with_written_sizes(law):
    net = nn.Sequential(nn.Linear(5, 24), nn.Unflatten(1, (6, 2, 2)), nn.Conv2d(6, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    space = law(net, torch.randn(2, 5))
    assert sizes(space) == {"2": 4}
    assert reasons(space)["0"] == "unflatten(2, 6, 2, 2) is written in the code of '1'"


def test_patches(law):
    function = lambda x: F.unfold(x, 3).flatten(1)  # noqa: E731
    space = law(Flat(function), torch.randn(2, 3, 5, 5))
    assert members(space, "conv")["fc.weight", 1] == [list(range(9 * i, 9 * i + 9)) for i in range(4)]


def test_squeeze_keeps_at_least_two_channels(law):
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x):
            return self.fc(F.adaptive_avg_pool2d(self.conv(x), 1).squeeze())

    space = law(Pooled(), torch.randn(2, 3, 5, 5))
    assert space.floor == (2,)
    assert space.with_limits(min_units=1).floor == (2,)


def test_class_token_and_position_table(law):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch, self.token = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.randn(1, 1, 8))
            self.place, self.norm = nn.Parameter(torch.randn(1, 9, 8)), nn.LayerNorm(8)
            self.up, self.down, self.head = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 3)

        def forward(self, x):
            x = self.patch(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
            x = x + self.place[:, : x.shape[1]]
            return self.head((x + self.down(F.gelu(self.up(self.norm(x)))))[:, 0])

    assert sizes(law(Tokens(), torch.randn(IMAGE))) == {"patch": 8, "up": 12}


def test_written_zero_padding_freezes_only_what_it_pads(law, toy):
    """Option A, inline: 8 channels padded to 12 and added to 12 others."""
    function = lambda s, x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)) + s.a(x)  # noqa: E731
    space = law(toy(function, out=12, a=toy.conv(8, 12, stride=2)), torch.randn(IMAGE))
    assert sizes(space) == {"stem.0": 8, "head": 6}
    assert members(space, "stem.0")["body.a.weight", 0] == [[2 + i] for i in range(8)]
    frozen = next(g for g in space.frozen if g.name == "body.a")
    assert (frozen.size, frozen.frozen_because) == (4, "F.pad of 4 channels is written in the code of 'body'")


def test_cropping_channels_by_padding_freezes(law, toy):
    assert reasons(law(toy(lambda s, x: F.pad(x, (0, 0, 0, 0, -1, 0)), out=7), torch.randn(IMAGE))) == {
        "stem.0": "F.pad crops its channels in 'body'"
    }


def test_index_buffer_freezes(law, toy):
    class Reorder(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("order", torch.tensor([3, 1, 0, 2, 7, 5, 6, 4]))

        def forward(self, x):
            return x.index_select(1, self.order)

    assert (
        "is written in the code of 'body.r'"
        in reasons(law(toy(lambda s, x: s.r(x), r=Reorder()), torch.randn(IMAGE)))["stem.0"]
    )


def test_reversed_and_repeated_channels(law, toy):
    space = law(toy(lambda s, x: torch.cat([x.flip(1), x.repeat(1, 2, 1, 1)], 1), out=24), torch.randn(IMAGE))
    assert members(space, "stem.0")["head.weight", 1] == [[7 - i, 8 + i, 16 + i] for i in range(8)]


def test_new_tensors_of_counted_size(law, toy):
    def function(s, x):
        y = s.a(x)
        out = x.new_zeros(x.shape[0], y.shape[1], *x.shape[2:])
        out += y
        return out

    assert sizes(law(toy(function, a=toy.conv(8, 7), out=7), torch.randn(IMAGE))) == {
        "stem.0": 8,
        "body.a": 7,
        "head": 6,
    }


def mean_by_hand(x):
    return next(x.sum(1, keepdim=True) * scale for scale in (1.0 / x.shape[1],))


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda s, x: s.a(x) / math.sqrt(x.shape[1]), "their number enters sqrt() in 'body'"),
        (lambda s, x: s.a(x) / np.log(x.shape[1]), "their number enters log() in 'body'"),
        (lambda s, x: s.a(x) * math.log2(s.a.in_channels), "their number enters log2() in 'body'"),
        (lambda s, x: s.a(x) * x.shape[1] ** -0.5, "their number enters arithmetic in 'body'"),
        (lambda s, x: s.a(x) * s.a.in_channels**-0.5, "their number enters arithmetic in 'body'"),
        (lambda s, x: s.a(x) * (1.0 / x.shape[1]), "their number enters arithmetic in 'body'"),
        (lambda s, x: s.a(x) * (-0.5 * 2**0.5 / s.a.in_channels), "their number enters arithmetic in 'body'"),
        (lambda s, x: mean_by_hand(x) + s.a(x), "their number enters arithmetic in 'body'"),
        (lambda s, x: s.a(x) * len(x[0]), "len() counts its channels in 'body'"),
        (lambda s, x: sum((x * i for i in range(x.shape[1])), s.a(x)), "their number enters range() in 'body'"),
        (lambda s, x: s.a(x) if x.shape[1] == 8 else x, "their number enters a comparison in 'body'"),
        (lambda s, x: s.a(x) if x.shape[1] > 4 else x, "their number enters a comparison in 'body'"),
        (lambda s, x: s.a(x) if x.shape[1] % 3 else x, "their number enters a remainder in 'body'"),
        (lambda s, x: s.a(x) * s.a.weight.shape[1], "their number enters torch.Tensor.mul in 'body'"),
    ],
)
def test_numbers_of_channels_that_enter_values_or_decisions_freeze(law, toy, function, reason):
    assert reasons(law(toy(function, a=toy.conv()), torch.randn(IMAGE))) == {"stem.0": reason}


@pytest.mark.parametrize(
    "function",
    [
        lambda s, x: s.a(x) if x.shape[1] <= 8 else x,
        lambda s, x: s.a(x) if 8.5 > x.shape[1] else x,
        lambda s, x: x if x.numel() * 2 > 2**31 or x.shape[1] in (64, 128) else s.a(x),
        lambda s, x: x if s.a.out_channels >= 16.0 else s.a(x),
        lambda s, x: s.a(x[:, : min(x.shape[1], 512)]),
    ],
)
def test_comparisons_that_come_out_the_same_of_fewer_channels_leave_them_free(law, toy, function):
    assert sizes(law(toy(function, a=toy.conv()), torch.randn(IMAGE))) == {"stem.0": 8, "body.a": 8, "head": 6}


@pytest.mark.parametrize(
    "function",
    [
        lambda s, x: x if x.shape[1] < 8 else s.a(x),
        lambda s, x: x if 4.0 >= x.shape[1] else s.a(x),
        lambda s, x: x if x.shape[1] == 4 else s.a(x),
        lambda s, x: s.a(x) * max(x.shape[1], 4),
    ],
)
def test_comparisons_that_fewer_channels_decide_otherwise_freeze(law, toy, function):
    assert "stem.0" in reasons(law(toy(function, a=toy.conv()), torch.randn(IMAGE)))


class Frozen(dict):
    """Settings that are read as attributes and cannot be changed."""

    __getattr__ = dict.__getitem__

    def __setitem__(self, key, value):
        raise TypeError("frozen")

    def __deepcopy__(self, memo):
        return self


GAIN, GAINS, SETTINGS = 2.0, {"one": [2.0, (2.0, 3.0)]}, Frozen(gain=2.0)


def by_default(s, x, gain=2.0):
    return gain / x.shape[1]


def by_keyword(s, x, *, gain=(2.0, 3.0)):
    return gain[0] / x.shape[1]


def enclosed(gain):
    return lambda s, x: gain / x.shape[1]


class Kept(nn.Conv2d):
    """A layer that keeps floats in its class, a list and its settings."""

    gain = 2.0

    def __init__(self, *args):
        super().__init__(*args)
        self.gains, self.settings, self.frozen = [2.0], SimpleNamespace(gain=2.0), Frozen(gain=2.0)


@pytest.mark.parametrize("factor", [
    lambda s, x: GAIN / x.shape[1], lambda s, x: GAINS["one"][1][0] / x.shape[1], by_default, by_keyword, enclosed(2.0),
    lambda s, x: math.pi / x.shape[1], lambda s, x: math.sqrt(2) / x.shape[1], lambda s, x: np.pi / x.shape[1],
    lambda s, x: sum(gain / x.shape[1] for gain in (2.0, 3.0)), lambda s, x: x.amax().item() / x.shape[1],
    lambda s, x: s.a.gain / x.shape[1], lambda s, x: s.a.gains[0] / x.shape[1],
    lambda s, x: s.a.settings.gain / x.shape[1], lambda s, x: s.a.frozen.gain / x.shape[1],
    lambda s, x: SETTINGS.gain / x.shape[1],
])  # fmt: skip
def test_floats_to_the_left_of_a_number_of_channels_freeze_wherever_they_are_kept(law, toy, factor):
    """Python's floats read the number unasked."""
    model = toy(lambda s, x: s.a(x) * factor(s, x), a=Kept(8, 8, 1))
    assert reasons(law(model, torch.randn(IMAGE))) == {"stem.0": "their number enters arithmetic in 'body'"}
    kept = [GAIN, *GAINS["one"][:1], *GAINS["one"][1], *by_default.__defaults__, math.pi, np.pi, Kept.gain]
    kept += [*by_keyword.__kwdefaults__["gain"], *model.body.a.gains, model.body.a.settings.gain]
    kept += [model.body.a.frozen.gain, SETTINGS.gain]
    assert {type(value) for value in kept} == {float}


def test_a_divisibility_check_holds_where_the_code_ties(law, toy):
    def function(s, x):
        batch, channels, height, width = x.shape
        assert channels % 4 == 0
        return x.view(batch, 4, channels // 4, height, width).flatten(1, 2)

    assert sizes(law(toy(function), torch.randn(IMAGE))) == {"stem.0": 2, "head": 6}

    def unused(s, x):
        assert x.shape[1] % 4 == 0
        return x

    assert reasons(law(toy(unused), torch.randn(IMAGE))) == {"stem.0": "'body' needs their number divisible by 4"}


def test_equal_shapes_compared_before_they_are_added(law, toy):
    space = law(toy(lambda s, x: s.a(x) + x if s.a(x).shape == x.shape else s.a(x), a=toy.conv()), torch.randn(IMAGE))
    assert sizes(space) == {"stem.0": 8, "head": 6}
    space = law(toy(lambda s, x: s.a(x) * 2 if s.a(x).shape == x.shape else s.a(x), a=toy.conv()), torch.randn(IMAGE))
    assert sizes(space) == {"stem.0": 8, "head": 6}  # what the code says of them holds of the kept ones


def test_two_inputs(law, toy):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.out = toy.conv(3, 8), toy.conv(1, 8), toy.conv(8, 2)

        def forward(self, image, depth):
            return self.out(F.relu(self.a(image) + self.b(depth)))

    image, depth = torch.randn(IMAGE), torch.randn(2, 1, 8, 8)
    for example in ((image, depth), {"depth": depth, "image": image}):
        assert sizes(law(Two(), example)) == {"a": 8}


@pytest.mark.parametrize("wrap", [lambda a, b: (a, b), lambda a, b: {"a": a, "b": [b]}])
def test_two_outputs(law, toy, wrap):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.a, self.b, self.c = toy.conv(3, 8), toy.conv(8, 2), toy.conv(8, 5), toy.conv(5, 3)

        def forward(self, x):
            x = F.relu(self.stem(x))
            return wrap(self.a(x), self.c(F.relu(self.b(x))))

    space = law(Two(), torch.randn(IMAGE))
    assert sizes(space) == {"stem": 8, "b": 5}
    assert sum(g.size for g in space.frozen) == 2 + 3


def test_dynamic_control_flow(law, toy):
    def function(s, x):
        for i in range(int(x.shape[2] > 4) + 1):
            x = F.relu(s.a(x)) if i % 2 else x + s.b(x)
        return x

    assert sizes(law(toy(function, a=toy.conv(8, 8), b=toy.conv(8, 8)), torch.randn(IMAGE))) == {
        "stem.0": 8, "body.a": 8, "head": 6,
    }  # fmt: skip


def test_what_a_module_keeps_is_forgotten(law, toy):
    def function(s, x):
        s.kept[:] = x * 2, 0.5, [0.5 * 3.0]
        return s.kept[0]

    net = toy(function)
    net.body.kept = []
    trace(net, torch.randn(IMAGE))
    last, gain, gains = net.body.kept
    assert not vars(last)
    assert {type(number) for number in (gain, *gains)} == {float}
    law(net, torch.randn(IMAGE))


def test_assignment_of_chosen_rows(law, toy):
    def function(s, x):
        rows = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
        out = x.new_zeros((rows.shape[0], x.shape[1]))
        chosen = torch.arange(0, rows.shape[0], 2)
        out[chosen] = rows[chosen] * 2
        return out.reshape(x.shape[0], x.shape[2], x.shape[3], -1).permute(0, 3, 1, 2)

    assert {g.name: g.size for g in law(toy(function), torch.randn(2, 3, 8, 8)).groups} == {"stem.0": 8, "head": 6}


def test_regions_of_a_detector(law, toy):
    from torchvision.ops import roi_align

    where = torch.tensor([[0.0, 0.0, 6.0, 6.0], [1.0, 2.0, 7.0, 5.0]])
    space = law(toy(lambda s, x: roi_align(x, [where.to(x.dtype)], 4, 0.5)), torch.randn(1, 3, 8, 8))
    assert {g.name: g.size for g in space.groups} == {"stem.0": 8, "head": 6}


def test_what_makes_one_unit_of_all_channels_is_named(law, toy):
    model = toy(lambda s, x: F.pixel_shuffle(s.a(x), 2), a=toy.conv(8, 4), out=1)
    (why,) = (g.frozen_because for g in law(model, torch.randn(2, 3, 8, 8)).frozen if g.name == "body.a")
    assert why == "one unit always stays, and there is only one: pixel_shuffle in 'body' ties its channels"


class Sized(nn.Module):
    """`function(self, x)` between layers; `rank` and `state` are numbers in its attributes."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function, self.rank, self.state = function, 3, 4
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.function(self, x)


def test_a_split_by_an_attribute_and_counts(law):
    """Mamba: the number of states is that of a parameter's axis."""

    def function(s, x):
        number = s.decay.shape[0]
        step, b, c = s.into(x).split([s.rank, number, number], -1)
        return s.out(torch.cat([s.step(step), s.decay * b * c], -1))

    parts = {"into": nn.Linear(5, 11), "step": nn.Linear(3, 8), "decay": nn.Parameter(torch.rand(4))}
    space = law(Sized(function, **parts, out=nn.Linear(12, 2)), torch.randn(2, 5))
    assert sizes(space) == {"into": 3, "into#2": 4, "step": 8}
    assert members(space, "into#2")["into.weight", 0] == [[3, 7], [4, 8], [5, 9], [6, 10]]
    assert ("rank", 3) in members(space, "into")


def test_features_beside_each_other_keep_their_number(law):
    """DLRM: as many vectors as were laid side by side, whatever they are wide."""

    def function(s, x):
        one = s.one(x)
        both = torch.cat([one, s.two(x)], 1).view(x.size(0), -1, one.size(1))
        return s.out((both @ both.transpose(1, 2)).flatten(1))

    model = Sized(function, one=nn.Linear(5, 8), two=nn.Linear(5, 8), out=nn.Linear(4, 2))
    space = law(model, torch.randn(3, 5))
    assert sizes(space) == {"one": 8}
    assert members(space, "one")["two.weight", 0] == [[i] for i in range(8)]


@pytest.mark.parametrize(
    ("pieces", "found"),
    [
        (lambda s, number: [s.rank * 2, s.state], {"into": 3, "into#2": 4}),
        (lambda s, number: [number, s.rank * 2], {"beside": 4, "into": 3}),
        (lambda s, number: [s.state, s.rank * s.two], {"into": 4, "into#2": 2}),
        (lambda s, number: [number, s.two * s.rank], {"beside": 4, "into": 3}),
    ],
)
def test_of_what_is_twice_an_attribute_two_go_at_once(law, pieces, found):
    """Nothing else ties them: the attribute would be no whole number."""

    def function(s, x):
        beside = s.beside(x)
        a, b = s.into(x).split(pieces(s, beside.size(-1)), -1)
        return s.out(torch.cat([b, a], -1)) + s.other(beside)

    parts = {"into": nn.Linear(5, 10), "beside": nn.Linear(5, 4), "out": nn.Linear(10, 2), "other": nn.Linear(4, 2)}
    model = Sized(function, **parts)
    model.two = 2
    assert {"beside": 4} | found == sizes(law(model, torch.randn(2, 5)))


@pytest.mark.parametrize(
    ("cut", "reason"),
    [
        (
            lambda s, x: torch.split(x, [s.rank + 2 * s.state, s.state], -1)[1],
            "split(11, 4) is written in the code of the model, or takes the 11 that a sum makes of 'rank' and 'state' "
            "there",
        ),
        (
            lambda s, x: x[:, s.rank + 2 * s.state :],
            "the index [11:] on its channels is written in the code of the model, or takes the 11 that a sum makes of "
            "'rank' and 'state' there",
        ),
        (
            lambda s, x: x.view(1, torch.arange(30).view(2, 15).shape[1], -1)[:, -4:, 0],
            "view(1, 15, -1) is written in the code of the model, or counts channels that stay",
        ),
        (lambda s, x: x[:, 11:], "the index [11:] on its channels is written in the code of the model"),
    ],
)
def test_what_is_worked_out_is_not_said_to_be_written(law, cut, reason):
    parts = {"early": nn.Linear(5, 6), "into": nn.Linear(6, 15), "out": nn.Linear(4, 2)}
    model = Sized(lambda s, x: s.out(cut(s, s.into(s.early(x)))), **parts)
    assert reason in reasons(law(model, torch.randn(1, 5))).values()


class Heads(nn.Module):
    """Attention that asks for the width of a head once heads are known to go whole (CoaT does)."""

    def __init__(self):
        super().__init__()
        self.num_heads, self.enter, self.qkv = 4, nn.Linear(6, 8), nn.Linear(8, 24)
        self.proj, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.enter(x)
        batch, number, width = x.shape
        qkv = self.qkv(x).reshape(batch, number, 3, self.num_heads, width // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        y = (q @ k.mT).softmax(-1) @ v
        y = y * q.shape[-1] ** -0.5
        return self.head(self.proj(y.transpose(1, 2).reshape(batch, number, -1)))


def test_the_width_of_a_head_is_asked_once_heads_go_whole(law):
    assert {g.name: g.size for g in law(Heads(), torch.randn(2, 5, 6)).groups} == {"enter": 4, "proj": 8}
