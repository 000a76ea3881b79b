"""Rows gathered and scattered by index, Fourier transforms: channels pass, each by itself."""

import pytest
import torch
from torch import nn

EDGES = torch.tensor([[0, 1, 2, 3, 4, 0], [1, 2, 3, 4, 0, 3]])


class Graph(nn.Module):
    """Messages along edges, added up at the nodes."""

    def __init__(self, add):
        super().__init__()
        self.into, self.message, self.out = nn.Linear(6, 8), nn.Linear(16, 8), nn.Linear(8, 3)
        self.add = add
        self.register_buffer("edges", EDGES)

    def forward(self, x):
        h = self.into(x).relu()
        start, end = self.edges
        m = self.message(torch.cat([h[start], h[end]], -1)).relu()
        return self.out(h + self.add(h, end, m))


@pytest.mark.parametrize(
    "add",
    [
        lambda h, end, m: torch.zeros_like(h).index_add(0, end, m),
        lambda h, end, m: h.new_zeros(h.shape).index_add_(0, end, m),
        lambda h, end, m: torch.zeros(5, h.shape[1], dtype=h.dtype).scatter_add_(0, end[:, None].expand_as(m), m),
        lambda h, end, m: m.gather(0, (end[:5] % 5)[:, None].expand(5, m.shape[1])),
    ],
)
def test_messages_are_added_up_by_index(law, add):
    space = law(Graph(add), torch.randn(5, 6))
    assert [(g.name, g.size) for g in space.groups] == [("into", 8)]  # the sum ties both layers


def test_scattering_along_the_channels_freezes_them(law):
    class Along(Graph):
        def forward(self, x):
            h = self.into(x)
            return self.out(h.scatter(1, torch.zeros(len(h), 2, dtype=torch.long), 1.0)) + self.message.bias[0]

    with pytest.raises(ValueError, match="scatter in the model mixes its channels"):
        law(Along(None), torch.randn(5, 6))


class Spectral(nn.Module):
    """Filters in the frequency domain, as complex weights and on real and imaginary parts."""

    def __init__(self):
        super().__init__()
        self.into, self.mix, self.out = nn.Conv2d(3, 6, 1), nn.Conv2d(12, 12, 1), nn.Linear(6, 4)
        self.weight = nn.Parameter(torch.randn(6, 8, 5, 2))

    def forward(self, x):
        x = self.into(x).relu()
        f = torch.fft.rfft2(x, norm="ortho")
        y = torch.fft.irfft2(f * torch.view_as_complex(self.weight), s=x.shape[-2:], norm="ortho")
        real, imaginary = self.mix(torch.cat([f.real, f.imag], 1)).relu().chunk(2, 1)
        z = torch.fft.irfft2(torch.complex(real, imaginary), s=x.shape[-2:], norm="ortho")
        return self.out((x + y + z).mean((2, 3)))


def test_channels_pass_fourier_transforms(law):
    space = law(Spectral(), torch.randn(2, 3, 8, 8))
    assert [(g.name, g.size) for g in space.groups] == [("into", 6)]
    assert ("weight", 0) in {(m.tensor, m.axis) for m in space.groups[0].members}


def test_a_transform_over_the_channels_freezes_them(law):
    class Over(Spectral):
        def forward(self, x):
            return self.out(torch.fft.fft(self.into(x).mean((2, 3)), dim=1).real) + self.mix.bias[:4]

    with pytest.raises(ValueError, match=r"fft_[cr]2c over the channels in the model"):
        law(Over(), torch.randn(2, 3, 8, 8))
