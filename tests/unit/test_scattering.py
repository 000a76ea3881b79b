"""What a pruned network has learnt goes back to where it stood: pruning again gives it, and nothing else changes."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from search_spaces import prune, trace
from search_spaces.models.resnet_cifar import ResNetCifar
from search_spaces.scattering import scatter


class Encoder(nn.Module):
    """Attention by an adapter, a layer-norm, a tied output."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.embed(x)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = x + self.down(torch.relu(self.up(self.norm(x))))
        return self.head(x.mean(1))


def tensors(net):
    return {**dict(net.named_parameters()), **dict(net.named_buffers())}


@pytest.mark.parametrize(
    ("make", "example"),
    [(lambda: ResNetCifar(8, width=4), torch.zeros(1, 3, 8, 8)), (Encoder, torch.zeros(1, 5, 6))],
    ids=["resnet", "attention"],
)
def test_pruning_again_gives_what_was_learnt(make, example):
    torch.manual_seed(0)
    dense = make().eval()
    space = trace(dense, example)
    rng = np.random.default_rng(0)
    kept = space.kept([(g.size + 1) // 2 for g in space.groups], [rng.random(g.size) for g in space.groups])
    small = prune(dense, space, kept)
    before = copy.deepcopy(dense)
    with torch.no_grad():
        for tensor in tensors(small).values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor))
    assert scatter(small, dense, space, kept) == ()
    again = tensors(prune(dense, space, kept))
    for name, tensor in tensors(small).items():
        assert torch.equal(again[name], tensor), name
    changed = sum(int((t != tensors(before)[n]).sum()) for n, t in tensors(dense).items() if t.is_floating_point())
    assert changed == sum(t.numel() for t in tensors(small).values() if t.is_floating_point())
