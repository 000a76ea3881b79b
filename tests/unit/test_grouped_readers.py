"""Grouped convolutions: the second axis of their weight counts the channels of one group, their input those of all."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
from tiny_training import Grouped

from autoprune.criteria import score_all
from autoprune.training.gating import Gating
from search_spaces import prune, trace

IMAGES = torch.randn(6, 3, 6, 6, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])


@pytest.fixture
def net():
    model = Grouped().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias.uniform_(0.1, 0.3, generator=torch.Generator().manual_seed(2))
    return model


def channels(net, space):
    """Per group, the layer whose output is read, and [C, k] its channels of each unit."""
    makers = {"stem": "norm1", "inner": "norm2", "wider": "norm3"}
    found = []
    for group in space.groups:
        member = next(m for m in group.members if m.role == "norm")
        assert makers[group.name] == member.layer
        found.append((member.layer, member.index))
    return found


def masked(net, layer, mask):
    """A hook that multiplies what a batch-norm answers after the rectifier; masks are not below 0."""
    return net.get_submodule(layer).register_forward_hook(lambda module, args, out: out * mask.view(1, -1, 1, 1))


def test_group_fisher_is_the_gradient_of_a_mask_on_all_channels_of_a_unit(net):
    space = trace(net, IMAGES[:1])
    assert [g.size for g in space.groups] == [4, 4, 6]
    scores = score_all("group_fisher", net, space, [(IMAGES, LABELS)])
    for found, (layer, index) in zip(scores, channels(net, space), strict=True):
        unit_of = torch.empty(index.size, dtype=torch.long)
        unit_of[torch.from_numpy(index.ravel())] = torch.arange(len(index)).repeat_interleave(index.shape[1])
        expected = torch.zeros(len(index), dtype=torch.float64)
        for image, label in zip(IMAGES, LABELS, strict=True):
            mask = torch.ones(len(index), requires_grad=True)
            hook = masked(net, layer, mask[unit_of])
            loss = nn.functional.cross_entropy(net(image[None]), label[None])
            hook.remove()
            expected += torch.autograd.grad(loss, mask)[0].double() ** 2
        np.testing.assert_allclose(found / found.sum(), (expected / expected.sum()).numpy(), rtol=1e-4)


@pytest.mark.parametrize("criterion", ["apoz", "thinet", "nisp", "taylor"])
def test_what_only_the_second_group_reads_counts(net, criterion):
    """The weights with which the first group of `inner` reads are zero: its half of the units says nothing."""
    space = trace(net, IMAGES[:1])
    with torch.no_grad():
        net.norm1.weight[:4], net.norm1.bias[:4] = 0, 0
    found = score_all(criterion, net, space, [(IMAGES, LABELS)])[0]
    assert np.ptp(found) > 0


@pytest.mark.parametrize(("number", "unit"), [(0, 0), (0, 3), (1, 1), (2, 4)])
def test_a_closed_gate_answers_as_the_pruned_network(net, number, unit):
    space = trace(net, IMAGES[:1])
    gates = [torch.ones(g.size) for g in space.groups]
    gates[number][unit] = 0
    gating = Gating(net, space, lambda n, values: gates[n])
    with torch.no_grad():
        gated = net(IMAGES)
    gating.remove()
    kept = [np.array([u for u in range(g.size) if (n, u) != (number, unit)]) for n, g in enumerate(space.groups)]
    with torch.no_grad():
        torch.testing.assert_close(gated, prune(net, space, kept)(IMAGES))
