"""Mask gradients against the weight gradients of each image alone, and what may surround them."""

import copy
from collections import deque
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autoprune.criteria import CRITERIA
from autoprune.criteria.gathering import GRADIENTS, gather
from autoprune.criteria.scoring import score_all
from autoprune.tasks.classification import class_scores
from search_spaces import ChannelGroup, Member, SearchSpace, trace

BOTH = frozenset({"gradients", "sample_gradients"})


class Mixed(nn.Module):
    """Residual stream, depthwise layer, in-place activations, concatenation, flatten to linear."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.depth, self.point = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 6, 1)
        self.side = nn.Conv2d(6, 4, 1)
        self.head = nn.Linear(10 * 16, 5)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)), inplace=True)
        x = x + self.point(F.relu(self.depth(x), inplace=True))
        return self.head(torch.cat([x, self.side(x)], 1).flatten(1))


class Tokens(nn.Module):
    """A linear layer that is read over tokens [N, T, C], and windows folded into the batch axis."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x):  # [N, 8, 4]
        x = self.a(x)
        windows = self.b(x.reshape(-1, 2, x.shape[-1]))
        x = windows.reshape(x.shape[0], 8, windows.shape[-1])
        return self.c(x.mean(1))


def batch(*shape, classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator), torch.randint(classes, shape[:1], generator=generator)


NETS = [(Mixed, (3, 4, 4), 5), (Tokens, (8, 4), 3)]


@pytest.mark.parametrize(("make", "shape", "classes"), NETS)
def test_mask_gradient_is_weight_times_gradient_of_the_readers(make, shape, classes):
    """A mask m on an input scales the weights that read it, so dL/dm = sum of w * dL/dw: an independent way to it."""
    torch.manual_seed(0)
    net = make().eval()
    space = trace(net, torch.zeros(1, *shape))
    images, labels = batch(5, *shape, classes=classes)
    masks = gather(net, space, [(images[:2], labels[:2]), (images[2:], labels[2:])], BOTH).masks
    parameters = dict(net.named_parameters())
    for n in range(5):
        net.zero_grad()
        F.cross_entropy(net(images[n : n + 1]), labels[n : n + 1]).backward()
        for group, mask in zip(space.groups, masks, strict=True):
            expected = torch.zeros(group.size)
            for member in (m for m in group.members if m.role == "in"):
                weight = parameters[member.tensor]
                product = (weight * weight.grad).movedim(member.axis, 0).flatten(1).sum(1)
                expected += product[torch.from_numpy(member.index)].sum(1)
            torch.testing.assert_close(mask[n], expected, rtol=1e-4, atol=1e-6)


def test_weight_gradients_are_means_over_all_images():
    torch.manual_seed(0)
    net = Mixed().eval()
    images, labels = batch(6, 3, 4, 4, classes=5)
    space = trace(net, images[:1])
    split = gather(net, space, [(images[:1], labels[:1]), (images[1:], labels[1:])], BOTH).weights
    F.cross_entropy(net(images), labels).backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(split[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_the_network_is_left_as_it_was():
    net = Mixed().train().requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    images, labels = batch(2, 3, 4, 4, classes=5)
    gather(net, trace(net, images[:1]), [(images, labels)], BOTH)
    assert net.training
    assert all(p.grad is None and not p.requires_grad for p in net.parameters())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert not images.requires_grad


def test_works_where_gradients_are_switched_off():
    net = Mixed().eval()
    images, labels = batch(2, 3, 4, 4, classes=5)
    with torch.no_grad():
        masks = gather(net, trace(net, images[:1]), [(images, labels)], BOTH).masks
    assert all(m.abs().sum() > 0 for m in masks)


def test_a_group_that_no_layer_reads_is_masked_where_it_is_made():
    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4, bias=False), nn.Linear(3, 4, bias=False)

        def forward(self, x):  # [N, 3] -> [N, 1]: a dot product ends the channels
            return torch.cat([(self.a(x) * self.b(x)).sum(1, keepdim=True), x[:, :1]], 1)

    torch.manual_seed(0)
    net = Product().eval()
    images, labels = batch(3, 3, classes=2)
    index = torch.arange(4)[:, None].numpy()
    group = ChannelGroup("a", 4, (Member("a.weight", 0, "out", index), Member("b.weight", 0, "out", index)))
    (mask,) = gather(net, SearchSpace((group,), (), (), ()), [(images, labels)], BOTH).masks
    # z = sum_c a_c b_c; a mask on both counts twice: g_c = dL/dz * 2 a_c b_c
    p = net(images).softmax(1)[:, 0] - (labels == 0).float()
    torch.testing.assert_close(mask, (p[:, None] * 2 * net.a(images) * net.b(images)).detach(), rtol=1e-4, atol=1e-6)


class Bare(nn.Module):
    """Layers written as matrix products with parameters; one channel is read by a layer and by a parameter."""

    def __init__(self):
        super().__init__()
        self.l, self.side = nn.Linear(4, 6), nn.Linear(6, 3)
        self.w1, self.w2 = (nn.Parameter(torch.randn(*shape)) for shape in ((6, 5), (5, 3)))

    def forward(self, x):
        x = F.gelu(self.l(x))
        return F.gelu(x @ self.w1) @ self.w2 + self.side(x)


class OnlyBare(Bare):
    """The reviewer's network: no module at all."""

    def __init__(self):
        super().__init__()
        del self.l, self.side
        self.w0 = nn.Parameter(torch.randn(4, 6))

    def forward(self, x):
        return F.gelu(F.gelu(x @ self.w0) @ self.w1) @ self.w2


class Functional(nn.Linear):
    """A subclass with a parameter of its own, which reads something else than the module does."""

    def __init__(self):
        super().__init__(4, 6)
        self.own = nn.Parameter(torch.randn(6, 3))

    def forward(self, x):
        return F.gelu(super().forward(x)) @ self.own


@pytest.mark.parametrize(("make", "sizes"), [(Bare, [6, 5]), (OnlyBare, [6, 5]), (Functional, [6])])
def test_units_read_by_a_bare_parameter_have_the_gradient_of_each_batch(make, sizes):
    """dL/dm = sum of w * dL/dw over the weights that read it: by autograd, on the sum of each batch's losses."""
    torch.manual_seed(0)
    net = make().eval()
    space = trace(net, torch.zeros(1, 4))
    assert sorted(g.size for g in space.groups) == sorted(sizes)
    images, labels = batch(5, 4, classes=3)
    batches = [(images[:3], labels[:3]), (images[3:], labels[3:])]
    found = gather(net, space, batches, frozenset({"sample_gradients"}))
    assert found.weights == {}
    parameters = dict(net.named_parameters())
    for group, mask in zip(space.groups, found.masks, strict=True):
        assert mask.shape == (2, group.size)
        for row, (x, y) in zip(mask, batches, strict=True):
            net.zero_grad()
            F.cross_entropy(net(x), y, reduction="sum").backward()
            expected = torch.zeros(group.size)
            for member in (m for m in group.members if m.role == "in"):
                weight = parameters[member.tensor]
                product = (weight * weight.grad).movedim(member.axis, 0).flatten(1).sum(1)
                expected += product[torch.from_numpy(member.index)].sum(1)
            torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-6)
    (both,) = {len(m) for m in gather(net, space, batches, BOTH).masks}
    assert both == 2


def test_a_layer_called_with_batches_of_two_sizes_and_a_table_without_images():
    class Pyramid(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 2)
            self.table = nn.Parameter(torch.randn(3, 4))

        def forward(self, x):  # [N, 4, 4]
            fine, coarse = self.a(x), self.b(self.a(x.mean(1)))
            fine = self.b(fine.reshape(-1, fine.shape[-1]))
            return self.c(fine.reshape(len(x), 4, fine.shape[-1]).mean(1) + coarse + self.b(self.a(self.table)).mean(0))

    torch.manual_seed(0)
    net = Pyramid().eval()
    images, labels = batch(2, 4, 4, classes=2)
    space = trace(net, images)
    masks = gather(net, space, [(images, labels)], BOTH).masks
    F.cross_entropy(net(images), labels, reduction="sum").backward()
    for group, mask, reader in zip(space.groups, masks, (net.b, net.c), strict=True):
        assert group.name == {net.b: "a", net.c: "b"}[reader]
        expected = (reader.weight * reader.weight.grad).sum(0)
        torch.testing.assert_close(mask.sum(0), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda z: z,
        lambda z: (z, 1),
        lambda z: {"aux": z + 1, "logits": z},
        lambda z: {"out": z},
        lambda z: SimpleNamespace(aux=z + 1, logits=z),
        lambda z: {"scores": z}.values(),
        lambda z: deque([(z, 1)]),
    ],
)
def test_class_scores(wrap):
    z = torch.zeros(2, 3)
    assert class_scores(wrap(z)) is z


def test_no_class_scores():
    with pytest.raises(ValueError, match="must return class scores as a tensor"):
        class_scores("nothing")


@pytest.mark.parametrize("name", sorted(n for n, c in CRITERIA.items() if c.needs & GRADIENTS))
@pytest.mark.parametrize(
    "labels", [torch.rand(4, 2), torch.rand(4, 4), torch.tensor([0, 1, 4, 0]), torch.tensor([0, -100, 1, 1])]
)
def test_criteria_of_gradients_refuse_labels_that_are_no_class_numbers(toy, name, labels):
    model = toy(lambda s, x: x).eval()
    space = trace(model, torch.rand(1, 3, 8, 8))
    with pytest.raises(ValueError, match="labels: "):
        score_all(name, model, space, [(torch.rand(4, 3, 8, 8), labels)])
