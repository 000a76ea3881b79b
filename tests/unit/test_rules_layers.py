"""Layers: what each of them couples, on toy networks small enough to say in full what may be pruned."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from search_spaces import prune

IMAGE = (2, 3, 8, 8)


def sizes(space):
    return {g.name: g.size for g in space.groups}


def reasons(space):
    return {g.name: g.frozen_because for g in space.frozen if g.frozen_because != "output of the network"}


class Toy(nn.Module):
    """stem (3 -> 8) -> body -> head -> mean -> linear."""

    def __init__(self, body, into=8, out=8):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, into, 3, padding=1, bias=False), nn.BatchNorm2d(into), nn.ReLU())
        self.body = body
        self.head = nn.Conv2d(out, 6, 1)
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        return self.fc(F.relu(self.head(self.body(self.stem(x)))).mean((2, 3)))


def test_plain_chain(law):
    space = law(Toy(nn.Identity()), torch.randn(IMAGE))
    assert sizes(space) == {"stem.0": 8, "head": 6}
    roles = {(m.tensor, m.axis): m.role for m in space.groups[0].members}
    assert roles == {
        ("stem.0.weight", 0): "out",
        ("stem.1.running_mean", 0): "norm",
        ("stem.1.running_var", 0): "norm",
        ("stem.1.weight", 0): "norm",
        ("stem.1.bias", 0): "norm",
        ("stem.1", 0): "statistics",
        ("head.weight", 1): "in",
    }
    assert [g.frozen_because for g in space.frozen] == ["output of the network"]


def test_depthwise_passes_its_channels_on(law):
    assert sizes(law(Toy(nn.Conv2d(8, 8, 3, padding=1, groups=8)), torch.randn(IMAGE))) == {"stem.0": 8, "head": 6}


def test_depthwise_with_multiplier_ties_its_outputs_to_the_input(law):
    space = law(Toy(nn.Conv2d(8, 24, 3, padding=1, groups=8), out=24), torch.randn(IMAGE))
    assert sizes(space) == {"stem.0": 8, "head": 6}
    outputs = next(m for m in space.groups[0].members if m.tensor == "body.weight")
    assert outputs.index.tolist() == [[3 * i, 3 * i + 1, 3 * i + 2] for i in range(8)]


def test_grouped_conv_lives_or_dies_by_whole_groups(law):
    space = law(Toy(nn.Conv2d(8, 12, 3, padding=1, groups=4), out=12), torch.randn(IMAGE))
    assert sizes(space) == {"stem.0": 4, "head": 6}
    assert space.grouped == (("body", 3),)


def test_transposed_grouped_conv(law):
    body = nn.Sequential(nn.ConvTranspose2d(8, 12, 2, 2, groups=4), nn.BatchNorm2d(12), nn.ReLU())
    assert sizes(law(Toy(body, out=12), torch.randn(IMAGE))) == {"stem.0": 4, "head": 6}


def test_unet_with_transposed_convs_and_skips(law):
    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.down1, self.down2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 10, 3, 2, 1)
            self.up = nn.ConvTranspose2d(10, 5, 2, 2)
            self.last, self.out = nn.Conv2d(11, 7, 3, padding=1), nn.Conv2d(7, 2, 1)

        def forward(self, x):
            a = F.relu(self.down1(x))
            b = F.relu(self.up(F.relu(self.down2(a))))
            return self.out(F.relu(self.last(torch.cat([b, a], 1))))

    space = law(UNet(), torch.randn(IMAGE))
    assert sizes(space) == {"down1": 6, "down2": 10, "up": 5, "last": 7}
    down1 = {m.tensor: m.index.ravel().tolist() for m in space.groups[0].members}
    assert down1["last.weight"] == [5, 6, 7, 8, 9, 10]  # behind the five of `up`


def test_shared_module_called_twice(law):
    shared = nn.Conv2d(8, 8, 3, padding=1)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = shared

        def forward(self, x):
            return self.conv(F.relu(self.conv(x)))

    space = law(Toy(Twice()), torch.randn(IMAGE))
    assert sizes(space) == {"stem.0": 8, "head": 6}  # its output is its own input
    assert next(x for x in space.layers if x.name == "body.conv").pixels == 2 * 64


def test_conv1d_and_conv3d(law):
    net = nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU(), nn.Conv1d(8, 6, 3, groups=2), nn.Flatten(), nn.Linear(36, 4))
    assert sizes(law(net, torch.randn(2, 3, 10))) == {"0": 4, "2": 3}  # one of each of the two groups
    net = nn.Sequential(
        nn.Conv3d(3, 8, 3), nn.BatchNorm3d(8), nn.ReLU(), nn.Conv3d(8, 5, 2), nn.Flatten(), nn.Linear(40, 4)
    )
    assert sizes(law(net, torch.randn(2, 3, 5, 5, 5))) == {"0": 8, "3": 5}


def test_group_norm_ties_one_channel_of_every_group(law):
    space = law(Toy(nn.Sequential(nn.Conv2d(8, 12, 1), nn.GroupNorm(3, 12)), out=12), torch.randn(IMAGE))
    assert sizes(space) == {"stem.0": 8, "body.0": 4, "head": 6}
    assert space.groups[1].members[0].index.tolist() == [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]


def test_group_norm_of_many_groups_loses_whole_ones(law):
    body = nn.Sequential(nn.Conv2d(8, 12, 1), nn.GroupNorm(6, 12), nn.ReLU(), nn.GroupNorm(12, 12))
    space = law(Toy(body, out=12), torch.randn(IMAGE))
    assert sizes(space) == {"stem.0": 8, "body.0": 6, "head": 6}
    assert space.grouped == (("body.1", 2), ("body.3", 1))
    pruned = prune(Toy(body, out=12), space, [np.arange(8), np.array([0, 3]), np.arange(6)])
    assert (pruned.body[1].num_groups, pruned.body[1].num_channels, pruned.body[3].num_groups) == (2, 4, 4)


@pytest.mark.parametrize("transposed", [False, True])
def test_few_wide_groups_lose_one_channel_each(law, transposed):
    """Two branches, concatenated and mixed in two groups."""

    class Fusion(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 1)
            kind = nn.ConvTranspose2d if transposed else nn.Conv2d
            self.mix = kind(12, 10, 3, padding=1, groups=2)

        def forward(self, x):
            return self.mix(torch.cat([self.a(x), self.b(x)], 1)).relu()

    space = law(Toy(Fusion(), out=10), torch.randn(IMAGE))
    assert sizes(space) == {"stem.0": 8, "body.a": 6, "body.mix": 5, "head": 6}
    mix = {(m.tensor, m.axis): m.index.tolist() for m in space.groups[2].members}
    assert mix["head.weight", 1] == [[i, i + 5] for i in range(5)]


def test_groups_written_in_the_code(law):
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(10, 4, 1, 1))

        def forward(self, x):
            return F.conv2d(x, self.weight, groups=2)

    assert sizes(law(Toy(Functional(), out=10), torch.randn(IMAGE))) == {"stem.0": 4, "body": 5, "head": 6}


def test_instance_norm(law):
    body = nn.Sequential(nn.Conv2d(8, 8, 1), nn.InstanceNorm2d(8, affine=True), nn.ReLU(), nn.InstanceNorm2d(8))
    assert sizes(law(Toy(body), torch.randn(IMAGE))) == {"stem.0": 8, "body.0": 8, "head": 6}


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
def test_norm_over_channels_last(law, norm):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.up, self.down = norm(8), nn.Linear(8, 20), nn.Linear(20, 8)

        def forward(self, x):
            y = self.down(F.gelu(self.up(self.norm(x.permute(0, 2, 3, 1)))))
            return x + y.permute(0, 3, 1, 2)

    assert sizes(law(Toy(Block()), torch.randn(IMAGE))) == {"stem.0": 8, "body.up": 20, "head": 6}


class Last(nn.LayerNorm):
    """Over [N, H, W, C]."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Counted(nn.Module):
    """Over what the input says."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(8, 8, 8) + 0.5)

    def forward(self, x):
        return F.layer_norm(x, x.shape[1:], self.scale)


@pytest.mark.parametrize(
    ("norm", "reason"),
    [
        (nn.LayerNorm([8, 8, 8]), None),
        (nn.RMSNorm([8, 8, 8]), None),
        (Counted(), None),
        (Last([8, 8, 8]), "'body' normalises over several axes"),
    ],
    ids=["layer", "rms", "counted", "channels last"],
)
def test_norms_over_the_channels_and_the_image(law, norm, reason):
    space = law(Toy(norm), torch.randn(IMAGE))
    assert reasons(space) == ({"stem.0": reason} if reason else {})
    assert sizes(space) == ({} if reason else {"stem.0": 8}) | {"head": 6}


def test_prelu(law):
    space = law(Toy(nn.Sequential(nn.PReLU(8), nn.PReLU())), torch.randn(IMAGE))
    assert ("body.0.weight", "norm") in {(m.tensor, m.role) for m in space.groups[0].members}


def test_embedding_to_linear(law):
    net = nn.Sequential(nn.Embedding(20, 12), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 3))
    assert sizes(law(net, torch.randint(0, 20, (2, 5)))) == {"0": 12, "1": 9}


def test_tied_embedding_is_made_and_read(law):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.up, self.down = nn.Embedding(20, 8), nn.Linear(8, 16), nn.Linear(16, 8)
            self.head = nn.Linear(8, 20, bias=False)
            self.head.weight = self.table.weight

        def forward(self, i):
            x = self.table(i)
            return self.head(x + self.down(F.relu(self.up(x))))

    space = law(Tied(), torch.randint(0, 20, (2, 5)))
    assert sizes(space) == {"table": 8, "up": 16}
    assert [m.role for m in space.groups[0].members if m.tensor == "table.weight"] == ["out", "in"]


def test_functional_layers_with_bare_parameters(law):
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.kernel, self.shift = nn.Parameter(torch.randn(10, 8, 3, 3)), nn.Parameter(torch.randn(10))
            self.matrix = nn.Parameter(torch.randn(10, 8))

        def forward(self, x):
            x = F.relu(F.conv2d(x, self.kernel, self.shift, padding=1)).permute(0, 2, 3, 1)
            return (x @ self.matrix).permute(0, 3, 1, 2)

    assert sizes(law(Toy(Bare()), torch.randn(IMAGE))) == {"stem.0": 8, "body": 10, "body#2": 8, "head": 6}


def test_computed_weights_freeze(law):
    net = nn.utils.parametrizations.orthogonal(nn.Conv2d(8, 8, 1))
    space = law(Toy(net), torch.randn(IMAGE))
    why = "the weight of 'body' is computed, not a parameter"
    cure = ": call torch.nn.utils.parametrize.remove_parametrizations first"
    assert reasons(space) == {"stem.0": why + cure, "body": why + cure}


class PerSample(nn.Module):
    """Convolves each image with a kernel of its own, in one call with as many groups as images: [B x 8, 8, 3, 3]."""

    def __init__(self, experts):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(experts, 8, 8, 3, 3))
        self.about = nn.Linear(8, experts if experts > 1 else 8)

    def forward(self, x):
        about, (batch, _, height, width) = self.about(x.mean((2, 3))).sigmoid(), x.shape
        if len(self.weight) > 1:  # CondConv (Yang et al. 2019): mixed from experts
            kernels = torch.einsum("be,eoikl->boikl", about, self.weight)
        else:  # StyleGAN2 (Karras et al. 2020): scaled along what is read, each filter then to length 1
            kernels = self.weight * about.view(batch, 1, 8, 1, 1)
            kernels = kernels * kernels.square().sum((2, 3, 4), keepdim=True).add(1e-8).rsqrt()
        return F.conv2d(x.reshape(1, -1, height, width), kernels.flatten(0, 1), padding=1, groups=batch).view_as(x)


@pytest.mark.parametrize("experts", [1, 4])
def test_kernels_of_each_sample_freeze_what_they_meet(law, experts):
    space = law(Toy(nn.Sequential(PerSample(experts), nn.Conv2d(8, 9, 1), nn.Conv2d(9, 8, 1))), torch.randn(IMAGE))
    assert {"body.1": 9, "body.2": 8, "head": 6}.items() <= sizes(space).items()
    assert "body.0" in reasons(space)["stem.0"]  # named


def test_token_mixing_lets_the_channels_pass(law):
    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix, self.back = nn.Linear(64, 5), nn.Linear(5, 64)

        def forward(self, x):
            return x + self.back(F.gelu(self.mix(x.flatten(2)))).view_as(x)

    space = law(Toy(Mixer()), torch.randn(IMAGE))
    assert sizes(space) == {"stem.0": 8, "head": 6}
    assert reasons(space)["body.mix"] == "'body.mix' mixes positions, not channels"


class EfficientChannelAttention(nn.Module):
    def __init__(self, padding=1):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=padding)

    def forward(self, x):
        gate = self.conv(x.mean((2, 3)).unsqueeze(1)).squeeze(1).sigmoid()
        return x * (gate[:, :, None, None] if gate.shape == x.shape[:2] else gate.mean())


def test_conv_over_the_channels_slides_over_the_kept_ones(law):
    space = law(Toy(EfficientChannelAttention()), torch.randn(IMAGE))
    assert {g.name: g.size for g in space.groups}["stem.0"] == 8


def test_conv_over_the_channels_that_leaves_fewer_freezes_them(law):
    space = law(Toy(EfficientChannelAttention(padding=0)), torch.randn(IMAGE))
    assert reasons(space)["stem.0"] == "'body.conv' slides over the channels"


def test_layers_over_heads_in_the_batch(law):
    """As in MViT: one convolution and normalisation for the channels of every head."""

    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.num_heads, self.qkv, self.proj = 4, nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
            self.pool = nn.Conv2d(2, 2, 3, padding=1, groups=2)
            self.norm = nn.BatchNorm2d(2)

        def forward(self, x):
            b, _, h, w = x.shape
            heads = self.qkv(x).reshape(b, self.num_heads, -1, h, w).reshape(b * self.num_heads, -1, h, w)
            return self.proj(self.norm(self.pool(heads)).reshape(b, -1, h, w))

    space = law(Toy(Pooled()), torch.randn(IMAGE))
    assert {g.name: g.size for g in space.groups}["body.qkv"] == 4


class GroupNorm(nn.Module):
    """Written by the user."""

    def __init__(self, groups, channels):
        super().__init__()
        self.num_groups, self.weight = groups, nn.Parameter(torch.rand(channels))

    def forward(self, x):
        return F.group_norm(x, self.num_groups, self.weight)


@pytest.mark.parametrize(
    ("function", "units"),
    [
        (lambda x: F.layer_norm(x.movedim(1, -1), (x.shape[1],)).movedim(-1, 1), 8),
        (lambda x: F.layer_norm(x.movedim(1, -1), x.movedim(1, -1).shape[-1:]).movedim(-1, 1), 8),
        (lambda x: F.group_norm(x, 1), 8),
        (lambda x: F.group_norm(x, 2), 4),
        (GroupNorm(1, 8), 8),
        (GroupNorm(4, 8), 2),
    ],
)
def test_normalisations_that_count_their_input(law, function, units):
    class Body(nn.Module):
        def __init__(self):
            super().__init__()
            self.function = function

        def forward(self, x):
            return self.function(x)

    space = law(Toy(Body()), torch.randn(IMAGE))
    assert {g.name: g.size for g in space.groups}["stem.0"] == units


def test_a_normalisation_of_a_written_size_freezes(law):
    class Body(nn.Module):
        def forward(self, x):
            return F.layer_norm(x.movedim(1, -1), (8,)).movedim(-1, 1)

    space = law(Toy(Body()), torch.randn(IMAGE))
    assert reasons(space)["stem.0"] == "the size of a normalisation is written in the code of 'body'"


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("norm", [F.rms_norm, F.layer_norm, torch.rms_norm])
@pytest.mark.parametrize(
    ("shape", "written"),
    [
        (lambda s, h: (h.size(-1),), False),
        (lambda s, h: h.shape[-1:], False),
        (lambda s, h: (s.dim,), False),
        (lambda s, h: (12,), True),
    ],
)
def test_the_size_of_a_normalisation_is_counted_or_in_an_attribute_or_written(law, shape, written, norm, scaled):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.dim, self.a, self.b, self.o = 12, nn.Linear(5, 12), nn.Linear(12, 8), nn.Linear(8, 3)
            self.w, self.deep = nn.Parameter(torch.rand(12)), nn.RMSNorm(8)

        def forward(self, x):
            h = self.a(x)
            h = norm(h, shape(self, h), *([self.w] if scaled else []))
            return self.o(self.deep(self.b(h)) + F.rms_norm(self.b(h), (self.b(h).shape[-1],), None, 1e-6))

    space = law(Net(), torch.randn(2, 4, 5))
    if written:
        assert sizes(space) == {"b": 8}
        assert reasons(space) == {"a": "the size of a normalisation is written in the code of the model"}
    else:
        assert sizes(space) == {"a": 12, "b": 8}
