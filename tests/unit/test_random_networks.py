"""Random small networks, built from the parts that couple channels: the law holds for all of them."""

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

IMAGE = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def conv(into, out, kernel=3, **options):
    return nn.Conv2d(into, out, kernel, padding=kernel // 2, **options)


class Residual(nn.Module):
    def __init__(self, c, hidden):
        super().__init__()
        self.a, self.norm, self.b = conv(c, hidden), nn.BatchNorm2d(hidden), conv(hidden, c, 1)

    def forward(self, x):
        return x + self.b(F.relu(self.norm(self.a(x))))


class Dense(nn.Module):
    def __init__(self, c, growth):
        super().__init__()
        self.a, self.out = conv(c, growth), c + growth

    def forward(self, x):
        return torch.cat([F.relu(self.a(x)), x], 1)


class Gate(nn.Module):
    def __init__(self, c, hidden):
        super().__init__()
        self.a, self.b = conv(c, hidden, 1), conv(hidden, c, 1)

    def forward(self, x):
        return x * self.b(F.silu(self.a(x.mean((2, 3), keepdim=True)))).sigmoid()


class SpatialGate(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.a = conv(c, 1)

    def forward(self, x):
        return x * self.a(x).sigmoid()


class Shuffle(nn.Module):
    def forward(self, x):
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class Halves(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.a = conv(c // 2, c // 2)

    def forward(self, x):
        a, b = x.chunk(2, 1)
        return torch.cat([a, F.relu(self.a(b))], 1)


class ChannelsLast(nn.Module):
    def __init__(self, c, hidden):
        super().__init__()
        self.norm, self.a, self.b = nn.LayerNorm(c), nn.Linear(c, hidden), nn.Linear(hidden, c)
        self.scale = nn.Parameter(torch.randn(c))

    def forward(self, x):
        y = self.b(F.gelu(self.a(self.norm(x.permute(0, 2, 3, 1)))))
        return x + (y * self.scale).permute(0, 3, 1, 2)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(c, c) for _ in range(4))

    def forward(self, x):
        t = x.flatten(2).transpose(1, 2)
        q, k, v = (f(t).view(*t.shape[:2], 2, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = ((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2)
        return x + self.o(y).transpose(1, 2).view_as(x)


class Pad(nn.Module):
    def forward(self, x):
        return F.pad(x, (0, 0, 0, 0, 1, 1))


def part(name, c, width):
    """A part, and how many channels leave it; `c` is even."""
    if name == "conv":
        return nn.Sequential(conv(c, width), nn.BatchNorm2d(width), nn.ReLU()), width
    if name == "grouped":
        return conv(c, width, groups=2), width
    if name == "depthwise":
        return conv(c, 2 * c, groups=c), 2 * c
    if name == "dense":
        return Dense(c, width), c + width
    if name == "pad":
        return Pad(), c + 2
    makers = {
        "residual": lambda: Residual(c, width), "gate": lambda: Gate(c, width), "spatial": lambda: SpatialGate(c),
        "shuffle": Shuffle, "halves": lambda: Halves(c), "last": lambda: ChannelsLast(c, width),
        "attention": lambda: Attention(c), "groupnorm": lambda: nn.GroupNorm(2, c), "prelu": lambda: nn.PReLU(c),
        "norm": lambda: nn.BatchNorm2d(c),
    }  # fmt: skip
    return makers[name](), c


PARTS = (
    "conv grouped depthwise dense pad residual gate spatial shuffle halves last attention groupnorm prelu norm".split()
)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from(PARTS), st.sampled_from([2, 4, 6])), min_size=1, max_size=5),
    st.booleans(),
    st.integers(0, 99),
)
def test_law(law, parts, flat, seed):
    torch.manual_seed(seed)
    modules, channels = [conv(3, 4), nn.ReLU()], 4
    for name, width in parts:
        module, channels = part(name, channels, width)
        modules.append(module)
        if channels > 24:
            modules.append(conv(channels, 6, 1))
            channels = 6
    tail = (
        [nn.Flatten(), nn.Linear(36 * channels, 5)]
        if flat
        else [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5)]
    )
    net = nn.Sequential(*modules, *tail, nn.ReLU(), nn.Linear(5, 3))
    space = law(net, IMAGE, seeds=(seed,))
    assert any(g.name == str(len(net) - 3) for g in space.groups)  # the last hidden layer can always go
