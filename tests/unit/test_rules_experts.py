"""Grouped matrix products: the rows of each expert times its own weight."""

import numpy as np
import pytest
import torch
from torch import nn

from search_spaces import prune, trace

grouped_mm = getattr(torch.nn.functional, "grouped_mm", getattr(torch, "_grouped_mm", None))
OFFSETS = torch.tensor([3, 3, 7, 10], dtype=torch.int32)


class Experts(nn.Module):
    """As in transformers: gate and up together, then down; of weights [experts, in, out], or turned about."""

    def __init__(self, turned, wide=32):
        super().__init__()
        self.entry, self.head, self.turned = nn.Linear(6, 16), nn.Linear(16, 4), turned
        up, down = torch.randn(4, 16, 2 * wide) / 4, torch.randn(4, wide, 16) / 6
        self.up, self.down = (nn.Parameter(w.mT.contiguous() if turned else w) for w in (up, down))

    def times(self, x, weight):
        return grouped_mm(x, weight.transpose(-2, -1) if self.turned else weight, offs=OFFSETS.to(x.device))

    def forward(self, x):
        x = self.entry(x)
        gate, up = self.times(x.flatten(0, 1), self.up).chunk(2, -1)
        return self.head((x + self.times(gate.sigmoid() * up, self.down).view(x.shape)).relu())


def works():
    try:
        grouped_mm(torch.zeros(10, 16), torch.zeros(4, 16, 16), offs=OFFSETS)
    except (RuntimeError, NotImplementedError, TypeError):  # of a PyTorch that has none for this processor
        return False
    return True


pytestmark = pytest.mark.skipif(not works(), reason="this PyTorch has no grouped product here")


@pytest.mark.parametrize("turned", [False, True], ids=["plain", "turned"])
def test_experts_shrink_by_blocks_of_sixteen_bytes(law, turned):
    net = Experts(turned)
    space = law(net, torch.randn(2, 5, 6), seeds=(0,))
    assert {g.name: g.size for g in space.groups} == {"entry": 2, "up": 4}
    pruned = prune(net, space, [np.arange(g.size)[:1] for g in space.groups])
    assert (pruned.up.shape, pruned.entry.out_features) == ((4, 16, 8) if turned else (4, 8, 16), 8)


def test_weights_that_are_computed_stay_whole():
    class Scaled(Experts):
        def forward(self, x):
            return self.head(grouped_mm(self.entry(x).flatten(0, 1), self.up * self.scale(x), offs=OFFSETS)[:, :16])

        def scale(self, x):
            return x.mean()

    space = trace(nn.Sequential(nn.Linear(6, 6), Scaled(False)), torch.randn(2, 5, 6))
    assert [g.name for g in space.groups] == ["0"]
    assert any("no product with weights of experts" in g.frozen_because for g in space.frozen)
