"""CIFAR ResNets with option-A shortcuts: declared, and written inline in two ways."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from search_spaces import PaddedShortcut, mask, prune, trace, verify
from search_spaces.models import resnet20, resnet56

IMAGE = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Inline(nn.Module):
    """A shortcut as people write it: the number of padded channels is a constant."""

    def __init__(self, shortcut, pool):
        super().__init__()
        self.side, self.pool = (shortcut.out_channels - shortcut.in_channels) // 2, pool

    def forward(self, x):
        x = F.avg_pool2d(x, 2) if self.pool else x[:, :, ::2, ::2]
        return F.pad(x, (0, 0, 0, 0, self.side, self.side))


def inline(pool):
    model = resnet20()
    for stage in (model.layer2, model.layer3):
        stage[0].shortcut = Inline(stage[0].shortcut, pool)
    return model


@pytest.mark.parametrize(("make", "blocks"), [(resnet20, 9), (resnet56, 27)])
def test_declared_shortcuts_leave_the_whole_stream_prunable(law, make, blocks):
    space = law(make(), IMAGE)
    assert [g.frozen_because for g in space.frozen] == ["output of the network"]
    assert len(space.groups) == blocks + 3
    streams = {g.name: g.size for g in space.groups if any(m.role == "declared" for m in g.members)}
    assert streams == {"conv1": 16, "layer2.0.conv2": 32, "layer3.0.conv2": 64}


@pytest.mark.parametrize("pool", [False, True])
def test_inline_padding_freezes_what_it_pads_and_nothing_else(law, pool):
    space = law(inline(pool), IMAGE)
    # Stage 3 has 64 channels: 16 + 16 padded; inside lie the 32 of stage 2, of which 8 + 8 are padded; inside lie
    # the 16 of stage 1, which are one with the middle of both.
    stream = next(g for g in space.groups if g.name == "conv1")
    assert stream.size == 16
    wide = next(m for m in stream.members if m.tensor == "layer3.0.conv2.weight" and m.axis == 0)
    assert wide.index.ravel().tolist() == list(range(24, 40))
    assert {g.name: (g.size, g.frozen_because) for g in space.frozen if g.name != "linear"} == {
        "layer2.0.conv2": (16, "F.pad of 16 channels is written in the code of 'layer2.0.shortcut'"),
        "layer3.0.conv2": (32, "F.pad of 32 channels is written in the code of 'layer3.0.shortcut'"),
    }
    assert len(space.groups) == 9 + 1


def test_both_spellings_compute_the_same():
    declared, written = resnet20(), inline(pool=False)
    written.load_state_dict(declared.state_dict())
    assert torch.equal(declared.eval()(IMAGE), written.eval()(IMAGE))


def test_a_shortcut_picks_its_channels_by_index():
    shortcut = PaddedShortcut(2, 4, stride=1)  # outputs: 0, in[0], in[1], 0
    x = torch.tensor([1.0, 2.0]).view(1, 2, 1, 1)
    assert shortcut(x).ravel().tolist() == [0, 1, 2, 0]
    shortcut.shrink(torch.tensor([1]).numpy(), torch.tensor([0, 1, 2]).numpy())
    assert shortcut(x[:, 1:]).ravel().tolist() == [0, 0, 2]
    shortcut.shrink(torch.tensor([0, 1]).numpy(), torch.arange(4).numpy())  # dense again
    assert shortcut(x).ravel().tolist() == [0, 1, 2, 0]


def test_pruned_and_masked_shortcuts_agree_when_one_side_is_whole():
    model = resnet20().eval()
    space = trace(model, IMAGE)
    kept = [
        torch.arange(g.size).numpy() if g.name == "conv1" else torch.arange(0, g.size, 2).numpy() for g in space.groups
    ]
    with torch.no_grad():
        assert torch.allclose(prune(model, space, kept)(IMAGE), mask(model, space, kept)(IMAGE), atol=1e-5)


def test_what_a_shortcut_remembers_lives_where_the_network_does():
    """The meta device stands for a GPU: nothing computed on the CPU may stay there."""
    model = resnet20().eval()
    space = trace(model, IMAGE)
    pruned = prune(model.to("meta"), space, [torch.arange(0, g.size, 2).numpy() for g in space.groups])
    assert {b.device.type for b in pruned.buffers()} == {"meta"}
    assert any(name.endswith("shortcut.source") for name, _ in pruned.named_buffers())
    assert pruned(IMAGE.to("meta")).shape == (1, 10)


def test_a_pruned_network_is_traced_and_pruned_again():
    """Its shortcuts say what they keep of the dense ones, whatever was pruned before."""
    model = resnet20().eval()
    space = trace(model, IMAGE)
    once = prune(model, space, [np.arange(1, g.size, 2) for g in space.groups])
    again = trace(once, IMAGE)
    assert [g.size for g in again.groups] == [g.size // 2 for g in space.groups]
    verify(once, again, IMAGE, seeds=(0,))
    twice = prune(once, again, [np.arange(0, g.size, 2) for g in again.groups])
    alike = prune(model, space, [np.arange(1, g.size, 4) for g in space.groups])
    with torch.no_grad():
        assert torch.equal(twice(IMAGE), alike(IMAGE))
