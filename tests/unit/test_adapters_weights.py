"""Layers that compute their weight anew in every pass, and convolutions that others have written."""

import numpy as np
import pytest
import torch
import torchvision
from duties import examine
from torch import nn
from torch.nn import functional as F
from torch.nn import utils
from torch.nn.utils import parametrizations

from autoprune.criteria import score_all
from objectives.costs import Macs, Params
from search_spaces import VerificationError, prune, trace, verify

IMAGE = (2, 3, 8, 8)
# The hooks are deprecated in favour of the parametrizations; networks have them all the same.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*weight_norm.* is deprecated", "ignore:The tensor attributes .*weight.* were assigned during export"
)


def sizes(space):
    return {g.name: g.size for g in space.groups}


def reasons(space):
    return {g.name: g.frozen_because for g in space.frozen if g.frozen_because != "output of the network"}


class Net(nn.Module):
    """Convolutions, a transposed one and a linear layer, each treated by `wrap`."""

    def __init__(self, wrap, groups=1):
        super().__init__()
        self.a, self.b = wrap(nn.Conv2d(3, 8, 3)), wrap(nn.Conv2d(8, 8, 3, groups=groups))
        self.up, self.fc, self.out = wrap(nn.ConvTranspose2d(8, 6, 2, 2)), wrap(nn.Linear(6, 5)), nn.Linear(5, 3)

    def forward(self, x):
        x = self.up(self.b(self.a(x).tanh()).tanh()).tanh()
        return self.out(self.fc(x.mean((2, 3))).tanh())


def settled(model, x):
    """After a pass: what the older hooks compute can then be copied."""
    with torch.no_grad():
        model.eval()(x)
    return model


WRAPS = {
    "weight_norm": parametrizations.weight_norm,
    "weight_norm of the whole": lambda layer: parametrizations.weight_norm(layer, dim=None),
    "weight_norm hook": utils.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "spectral_norm hook": utils.spectral_norm,
}


@pytest.mark.parametrize("name", WRAPS)
@pytest.mark.parametrize(
    ("groups", "free"),
    [(1, {"a": 8, "b": 8, "up": 6, "fc": 5}), (2, {"a": 4, "b": 4, "up": 6, "fc": 5}), (8, {"a": 8, "up": 6, "fc": 5})],
    ids=["dense", "grouped", "depthwise"],
)
def test_normalised_weights_keep_their_function(law, name, groups, free):
    x = torch.randn(IMAGE)
    model = settled(Net(WRAPS[name], groups), x)
    space = law(model, x)
    assert sizes(space) == free
    assert not reasons(space)
    examine(model, space, x)


@pytest.mark.parametrize("name", WRAPS)
def test_the_effective_weight_of_what_stays_is_what_it_was(name):
    x = torch.randn(IMAGE)
    model = settled(Net(WRAPS[name]).double(), x.double())
    space = trace(model, x.double())
    kept = [np.sort(np.random.default_rng(0).permutation(g.size)[:4]) for g in space.groups]
    settled(model, x.double())
    pruned = settled(prune(model, space, kept), x.double())
    assert torch.allclose(pruned.b.weight, model.b.weight[kept[1]][:, kept[0]], rtol=0, atol=1e-12)
    assert torch.allclose(pruned.up.weight, model.up.weight[kept[1]][:, kept[2]], rtol=0, atol=1e-12)
    assert (pruned.b.in_channels, pruned.up.out_channels, pruned.fc.in_features) == (4, 4, 4)


def test_costs_by_hand():
    x = torch.randn(IMAGE)
    model = Net(parametrizations.weight_norm)
    space = trace(model, x)
    # 4, 5, 3 and 2 channels; images of 6 x 6, 4 x 4, 8 x 8 pixels
    widths = (4, 5, 3, 2)
    macs = 36 * 9 * 3 * 4 + 16 * 9 * 4 * 5 + 64 * 5 * 3 + 3 * 2 + 2 * 3
    lengths = 4 + 5 + 5 + 2  # of each filter; of each channel that the transposed one reads
    weights = 9 * 3 * 4 + 4 + 9 * 4 * 5 + 5 + 4 * 5 * 3 + 3 + 3 * 2 + 2 + 2 * 3 + 3 + lengths
    assert Macs(space)(widths) == macs
    pruned = prune(model, space, [np.arange(w) for w in widths])
    assert Params(space)(widths) == sum(p.numel() for p in pruned.parameters()) == weights


def test_wrong_maps_are_noticed(mutants):
    x = torch.randn(IMAGE)
    for wrap in (parametrizations.weight_norm, parametrizations.spectral_norm):
        model = Net(wrap)
        for _, wrong in mutants(trace(model, x), range(5)):
            with pytest.raises(VerificationError):
                verify(model, wrong, x, seeds=(0,))


def test_the_length_of_a_filter_is_its_l2_norm():
    """Weight norm keeps it in a parameter of its own; the direction's length means nothing."""
    model, x = Net(parametrizations.weight_norm), torch.randn(IMAGE)
    with torch.no_grad():
        model.a.parametrizations.weight.original1.mul_(torch.arange(1.0, 9).view(8, 1, 1, 1))
    scores = score_all("l2", model, trace(model, x))[0]
    lengths = model.a.weight.detach().flatten(1).norm(dim=1).numpy()
    assert np.array_equal(np.argsort(scores), np.argsort(lengths))


def test_other_parametrizations_are_frozen_with_the_cure(law):
    model = Net(lambda layer: parametrizations.orthogonal(layer) if isinstance(layer, nn.Linear) else layer)
    space = law(model, torch.randn(IMAGE))
    assert sizes(space) == {"a": 8, "b": 8}
    assert "remove_parametrizations first" in reasons(space)["up"]


# -- weight standardisation, as timm writes it ----------------------------------------------------------------------


class StdConv2d(nn.Conv2d):
    def __init__(self, *args, eps=1e-6, **options):
        super().__init__(*args, **options)
        self.eps = eps

    def forward(self, x):
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, training=True, momentum=0.0, eps=self.eps).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class ScaledStdConv2dSame(nn.Conv2d):
    """Pads as TensorFlow does: the input's size decides."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.gain, self.scale = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1)), self.weight[0].numel() ** -0.5
        self.eps, self.same_pad = 1e-6, True

    def forward(self, x):
        rows, columns = (max((-(-n // s) - 1) * s + k - n, 0) for n, s, k in zip(x.shape[2:], self.stride, self.kernel_size, strict=True))  # fmt: skip  # noqa: E501
        x = F.pad(x, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2])
        gain, flat = (self.gain * self.scale).view(-1), self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, weight=gain, training=True, momentum=0.0, eps=self.eps)
        return F.conv2d(x, weight.reshape_as(self.weight), self.bias, self.stride, (0, 0), self.dilation, self.groups)


class Standardised(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.a, self.b = kind(3, 8, 3), kind(8, 8, 3, stride=2, groups=2)
        self.c, self.out = kind(8, 6, (3, 1), bias=False), nn.Linear(6, 3)

    def forward(self, x):
        return self.out(self.c(self.b(self.a(x).tanh()).tanh()).tanh().mean((2, 3)))


class ByHand(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.flatten(1).std(1).view(-1, 1, 1, 1) + 1e-5)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def test_a_weight_that_depends_on_the_input_is_not_computed_for_good(law):
    class Dynamic(nn.Conv2d):
        def forward(self, x):
            return F.conv2d(x, self.weight * (1 + x.mean()), self.bias, self.stride, self.padding, groups=self.groups)

    model, x = Standardised(Dynamic), torch.randn(2, 3, 11, 10)
    space = law(model, x)
    assert type(prune(model, space, [np.arange(1, g.size) for g in space.groups]).a) is Dynamic


@pytest.mark.parametrize("kind", [StdConv2d, ScaledStdConv2dSame, ByHand])
def test_standardised_weights_keep_their_function(law, kind):
    model, x = Standardised(kind), torch.randn(2, 3, 11, 10)
    space = law(model, x)
    assert sizes(space) == {"a": 4, "b": 4, "c": 6}
    assert not reasons(space)
    pruned = examine(model, space, x)
    again = trace(pruned.double(), x.double())  # the pruned network can be pruned in its turn
    assert verify(pruned, again, x.double(), seeds=(0,)) < 1e-6


# -- layers that others have written -------------------------------------------------------------------------------


class Deformable(nn.Module):
    def __init__(self, groups=1, offsets=1, modulated=True):
        super().__init__()
        self.a, self.offset = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 18 * offsets, 3, padding=1)
        self.modulation = nn.Conv2d(8, 9 * offsets, 3, padding=1) if modulated else None
        self.deform, self.out = torchvision.ops.DeformConv2d(8, 6, 3, padding=1, groups=groups), nn.Conv2d(6, 4, 3)

    def forward(self, x):
        x = self.a(x).tanh()
        modulation = self.modulation(x).sigmoid() if self.modulation is not None else None
        return self.out(self.deform(x, self.offset(x) * 0.1, modulation).tanh())


@pytest.mark.parametrize(
    ("options", "free"),
    [
        ({}, {"a": 8, "deform": 6}), ({"groups": 2}, {"a": 4, "deform": 3}), ({"offsets": 2}, {"a": 4, "deform": 6}),
        ({"modulated": False}, {"a": 8, "deform": 6}),
    ],
    ids=str,
)  # fmt: skip
def test_deformable_convolution(options, free):
    model, x = Deformable(**options), torch.randn(IMAGE)
    space = trace(model, x)
    assert verify(model, space, x) < 1e-6
    assert sizes(space) == free
    assert set(reasons(space).values()) == {"it says where 'deform' looks"}
    examine(model, space, x, exported=False)


def test_costs_of_deformable_convolution_by_hand():
    space = trace(Deformable(modulated=False), torch.randn(IMAGE))
    # 5 and 3 channels on 8 x 8 pixels; 18 offsets; 4 channels on 6 x 6 pixels
    assert Macs(space)((5, 3)) == 9 * (64 * 3 * 5 + 64 * 5 * 18 + 64 * 5 * 3 + 36 * 3 * 4)


def test_frozen_batch_norm(law):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), torchvision.ops.FrozenBatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    x = torch.randn(IMAGE)
    space = law(model, x)
    assert sizes(space) == {"0": 8}
    examine(model, space, x)


class Conv1D(nn.Module):
    """As Hugging Face's GPT-2 has it: a linear layer that lies on its side."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf) * 0.3), nn.Parameter(torch.zeros(nf))

    def forward(self, x):
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view((*x.size()[:-1], self.nf))


class Block(nn.Module):
    def __init__(self, width=8, heads=4):
        super().__init__()
        self.embed_dim = self.split_size = width
        self.num_heads, self.head_dim = heads, width // heads
        self.ln_1, self.c_attn, self.c_proj = nn.LayerNorm(width), Conv1D(3 * width, width), Conv1D(width, width)
        self.ln_2, self.c_fc, self.c_out = nn.LayerNorm(width), Conv1D(20, width), Conv1D(width, 20)

    def forward(self, x):
        parts = self.c_attn(self.ln_1(x)).split(self.split_size, dim=2)
        q, k, v = (t.view(*t.shape[:-1], -1, self.head_dim).transpose(1, 2) for t in parts)
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(heads.transpose(1, 2).reshape(*x.shape[:-1], -1))
        return x + self.c_out(F.gelu(self.c_fc(self.ln_2(x))))


class Gpt(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte, self.wpe, self.h = nn.Embedding(11, 8), nn.Embedding(7, 8), nn.Sequential(Block(), Block())
        self.ln_f, self.head = nn.LayerNorm(8), nn.Linear(8, 11, bias=False)

    def forward(self, tokens):
        return self.head(self.ln_f(self.h(self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1])))))


def test_gpt2_with_its_conv1d(law):
    model, tokens = Gpt(), torch.randint(11, (2, 7))
    space = law(model, tokens)
    assert sizes(space) == {"wte": 8, "h.0.c_attn": 4, "h.0.c_fc": 20, "h.1.c_attn": 4, "h.1.c_fc": 20}
    pruned = examine(model, space, tokens)
    assert pruned.h[0].c_fc.nf == pruned.h[0].c_fc.weight.shape[1] < 20


class Clip(nn.Module):
    """Each weight by itself."""

    def forward(self, weight):
        return weight.clamp(-0.1, 0.1)


class Centre(nn.Module):
    """Each filter by itself."""

    def forward(self, weight):
        return weight - weight.mean(tuple(range(1, weight.dim())), keepdim=True)


def parametrized(kind):
    def wrap(layer):
        utils.parametrize.register_parametrization(layer, "weight", kind())
        return layer

    return wrap


def test_weights_that_are_computed_one_by_one_lose_channels_on_both_sides(law):
    space = law(Net(parametrized(Clip)), torch.randn(IMAGE))
    assert sizes(space) == {"a": 8, "b": 8, "up": 6, "fc": 5}


def test_weights_that_are_computed_by_filters_lose_filters(law):
    class Ends(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.out = nn.Conv2d(3, 8, 3), parametrized(Centre)(nn.Conv2d(8, 6, 3)), nn.Linear(6, 3)

        def forward(self, x):
            return self.out(self.b(self.a(x).relu()).relu().mean((2, 3)))

    space = law(Ends(), torch.randn(IMAGE))
    assert sizes(space) == {"b": 6}
    assert reasons(space) == {"a": "the parametrization of 'b' computes its weight from all of them"}
