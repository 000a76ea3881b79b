"""Fourier layers: weights of complex numbers are layers, too (Li et al. 2021, https://arxiv.org/abs/2010.08895)."""

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.criteria import CRITERIA, score_all
from search_spaces import prune, trace


class Spectral(nn.Module):
    """The lowest frequencies times a weight; `parts`: its real and imaginary parts beside each other."""

    def __init__(self, wide=8, modes=4, parts=False):
        super().__init__()
        weight = torch.randn(wide, wide, modes, 2) / wide
        self.out_channels, self.modes, self.parts = wide, modes, parts
        self.weight = nn.Parameter(weight if parts else torch.view_as_complex(weight))

    def forward(self, x):
        found = torch.fft.rfft(x)
        out = torch.zeros(x.shape[0], self.out_channels, found.shape[-1], dtype=found.dtype)
        weight = torch.view_as_complex(self.weight) if self.parts else self.weight
        out[:, :, : self.modes] = torch.einsum("bix,iox->box", found[:, :, : self.modes], weight)
        return torch.fft.irfft(out, n=x.shape[-1])


class Operator(nn.Module):
    """One block of a Fourier neural operator."""

    def __init__(self, **how):
        super().__init__()
        self.lift, self.spectral, self.local = nn.Conv1d(3, 8, 1), Spectral(**how), nn.Conv1d(8, 8, 1)
        self.head = nn.Conv1d(8, 4, 1)

    def forward(self, x):
        x = self.lift(x).relu()
        return self.head((self.spectral(x) + self.local(x)).relu()).mean(-1)


@pytest.mark.parametrize("parts", [False, True], ids=["complex", "parts"])
def test_the_weight_of_a_fourier_layer_shrinks(law, parts):
    net = Operator(parts=parts)
    space = law(net, torch.randn(2, 3, 16))
    assert {g.name: g.size for g in space.groups} == {"lift": 8, "spectral": 8}
    pruned = prune(net, space, [np.arange(3), np.arange(5)])
    assert pruned.spectral.weight.shape[:3] == (3, 5, 4)
    assert pruned.spectral.out_channels == 5


def test_a_product_along_two_axes_of_frequencies(law):
    class Plane(Operator):
        def __init__(self):
            super().__init__()
            del self.spectral
            self.lift, self.local, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)
            self.low, self.high = (nn.Parameter(torch.randn(8, 8, 3, 3, dtype=torch.cfloat) / 8) for _ in range(2))

        def spectral(self, x):
            found = torch.fft.rfft2(x)
            out = torch.zeros_like(found)
            out[:, :, :3, :3] = torch.einsum("bixy,ioxy->boxy", found[:, :, :3, :3], self.low)
            out[:, :, -3:, :3] = torch.einsum("bixy,ioxy->boxy", found[:, :, -3:, :3], self.high)
            return torch.fft.irfft2(out, s=x.shape[-2:])

        def forward(self, x):
            x = self.lift(x).relu()
            return self.head((self.spectral(x) + self.local(x)).relu()).mean((-1, -2))

    space = law(Plane(), torch.randn(2, 3, 8, 8))
    assert sum(g.size for g in space.groups) in (8, 16)


@pytest.mark.parametrize("name", CRITERIA)
def test_a_complex_number_counts_as_its_two_parts(name):
    """As where the network holds the real and imaginary parts beside each other."""
    nets = [nn.Sequential(Operator(parts=parts), nn.Linear(4, 10)).eval() for parts in (True, False)]
    state = nets[0].state_dict()
    state["0.spectral.weight"] = torch.view_as_complex(state["0.spectral.weight"])
    nets[1].load_state_dict(state)
    batch = torch.randn(6, 3, 16), torch.arange(6)
    parts, whole = (score_all(name, net, trace(net, batch[0][:1]), [batch]) for net in nets)
    assert all(np.allclose(a, b, rtol=1e-5, atol=1e-9) for a, b in zip(parts, whole, strict=True))
