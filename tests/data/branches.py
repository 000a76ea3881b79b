"""Small networks with branches: residual blocks of every kind, and joins written in every way."""

import torch
from torch import nn
from torch.nn import functional

IMAGES = 2, 3, 8, 8
TOKENS = 2, 6, 8


class Residual(nn.Module):
    """A branch joined to what it was given, in one of many ways of writing it."""

    def __init__(self, branch, join="x + y", scale=1.0, drop=0.0):
        super().__init__()
        self.branch, self.join, self.scale, self.drop = branch, join, scale, drop

    def forward(self, x):
        y = self.branch(x)
        if self.drop and self.training:
            y = y * x.new_empty(len(x), 1, 1, 1).bernoulli_(1 - self.drop) / (1 - self.drop)
        if self.scale != 1:
            y = y * self.scale
        if self.join == "y += x":
            y += x
            return y
        return {
            "x + y": lambda: x + y,
            "torch.add": lambda: torch.add(x, y, alpha=0.5),
            "x.add_": lambda: x.add_(y),
            "stack": lambda: torch.stack([x, y]).sum(0),
            "lerp": lambda: torch.lerp(x, y, 0.3),
            "relu": lambda: functional.relu(x + y, inplace=True),
        }[self.join]()


JOINS = ("x + y", "torch.add", "x.add_", "stack", "lerp", "relu", "y += x")


def two_convs(channels, inner, norm=True):
    norms = (nn.BatchNorm2d(inner), nn.BatchNorm2d(channels)) if norm else (nn.Identity(), nn.Identity())
    first, last = nn.Conv2d(channels, inner, 3, 1, 1), nn.Conv2d(inner, channels, 3, 1, 1)
    return nn.Sequential(first, norms[0], nn.ReLU(inplace=True), last, norms[1])


class Classifier(nn.Module):
    def __init__(self, *blocks, last=16):
        super().__init__()
        self.stem, self.blocks, self.fc = nn.Conv2d(3, 16, 3, 1, 1), nn.Sequential(*blocks), nn.Linear(last, 5)

    def forward(self, x):
        return self.fc(self.blocks(functional.relu(self.stem(x))).mean((2, 3)))


class PreActivation(nn.Module):
    def __init__(self, before, after, stride=1):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(before), nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(after), nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(before, after, 1, stride) if before != after else None

    def forward(self, x):
        out = functional.relu(self.norm1(x))
        beside = self.shortcut(out) if self.shortcut else x
        out = self.conv2(functional.relu(self.norm2(self.conv1(out))))
        out += beside
        return out


class Bottleneck(nn.Module):
    def __init__(self, channels, inner):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.norm2 = nn.Conv2d(inner, inner + 2, 3, 1, 1, bias=False), nn.BatchNorm2d(inner + 2)
        self.conv3, self.norm3 = nn.Conv2d(inner + 2, channels, 1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x):
        out = functional.relu(self.norm1(self.conv1(x)))
        out = functional.relu(self.norm2(self.conv2(out)))
        return functional.relu(self.norm3(self.conv3(out)) + x)


class Squeezed(nn.Module):
    """A branch with squeeze-and-excitation, which is a branch itself."""

    def __init__(self, channels, inner):
        super().__init__()
        self.branch = two_convs(channels, inner)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, 3, 1), nn.ReLU(),
                                  nn.Conv2d(3, channels, 1), nn.Sigmoid())  # fmt: skip

    def forward(self, x):
        out = self.branch(x)
        out = out * self.gate(out)
        out += x
        return functional.relu(out)


class Inverted(nn.Module):
    def __init__(self, channels, inner):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6(),
            nn.Conv2d(inner, inner, 3, 1, 1, groups=inner, bias=False), nn.BatchNorm2d(inner), nn.ReLU6(),
            nn.Conv2d(inner, channels, 1, bias=False), nn.BatchNorm2d(channels),
        )  # fmt: skip

    def forward(self, x):
        return x + self.conv(x)


class Border(nn.Module):
    """Behind the inner channels a padded convolution: what it makes of a bias differs at the border."""

    def __init__(self, channels, inner, bias):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1, bias=bias)
        self.depthwise = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels, bias=False)

    def forward(self, x):
        return x + self.depthwise(self.conv2(functional.relu(self.conv1(x))))


class Scaled(nn.Module):
    """A layer scale and dropout between the branch and the join."""

    def __init__(self, channels, inner):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(channels, inner, 3, padding=1), nn.Conv2d(inner, channels, 3, padding=1)
        self.gamma, self.gain = nn.Parameter(torch.rand(channels, 1, 1)), nn.Parameter(torch.full((1,), 0.3))

    def forward(self, x):
        y = self.conv2(functional.gelu(self.conv1(x))).mul_(self.gamma)
        return x + self.gain * functional.dropout(y, 0.1, self.training)


class DenseLayer(nn.Module):
    def __init__(self, channels, growth):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, 2 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(2 * growth), nn.Conv2d(2 * growth, growth, 3, 1, 1, bias=False)

    def forward(self, x):
        y = self.conv1(functional.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(functional.relu(self.norm2(y)))], 1)


class DenseBlock(nn.Module):
    """Layers that are given a list of all that came before, as torchvision's are."""

    def __init__(self, channels, growth):
        super().__init__()
        self.layers = nn.ModuleList(_Listed(channels + i * growth, growth) for i in range(2))

    def forward(self, x):
        features = [x]
        for layer in self.layers:
            features.append(layer(features))
        return torch.cat(features, 1)


class _Listed(nn.Module):
    def __init__(self, channels, growth):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(channels), nn.Conv2d(channels, growth, 3, 1, 1)

    def forward(self, features):
        return self.conv(functional.relu(self.norm(torch.cat(features, 1))))


class Inception(nn.Module):
    """Three paths that are concatenated inside a branch: all of them gone, so is the convolution behind."""

    def __init__(self, channels):
        super().__init__()
        self.a, self.b = nn.Conv2d(channels, 6, 1), nn.Conv2d(channels, 6, 3, 1, 1)
        self.c = nn.Sequential(nn.Conv2d(channels, 4, 1), nn.ReLU(), nn.Conv2d(4, 6, 3, 1, 1))
        self.up = nn.Conv2d(18, channels, 1)

    def forward(self, x):
        return functional.relu(x + 0.2 * self.up(torch.cat([self.a(x), self.b(x), self.c(x)], 1)))


class Paths(nn.Module):
    """Paths that are all there is: one of them must stay."""

    def __init__(self, channels):
        super().__init__()
        self.a, self.b = nn.Conv2d(channels, 8, 1), nn.Conv2d(channels, 8, 3, 1, 1)

    def forward(self, x):
        return torch.cat([self.a(x), self.b(x)], 1)


class Attention(nn.Module):
    """Fused projections of queries, keys and values."""

    def __init__(self, dim, heads):
        super().__init__()
        self.num_heads, self.head_dim, self.scale = heads, dim // heads, (dim // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        n, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q * self.scale @ k.transpose(-2, -1)).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(n, tokens, self.num_heads * self.head_dim))


class Block(nn.Module):
    def __init__(self, dim=16, heads=4, order="pre"):
        super().__init__()
        self.order, self.attention = order, Attention(dim, heads)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.fc1, self.fc2, self.scale = nn.Linear(dim, 24), nn.Linear(24, dim), nn.Parameter(torch.rand(dim))

    def mlp(self, x):
        return self.fc2(functional.gelu(self.fc1(x)))

    def forward(self, x):
        if self.order == "parallel":
            y = self.norm1(x)
            return x + self.attention(y) + self.mlp(y)
        if self.order == "post":
            x = self.norm1(x + self.attention(x))
            return self.norm2(x + self.mlp(x))
        x = x + self.scale * self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Torch(nn.Module):
    """nn.MultiheadAttention, its weights thrown away."""

    def __init__(self, dim=16, heads=4):
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(dim), nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(dim, 24), nn.GELU(), nn.Linear(24, dim))

    def forward(self, x):
        y = self.norm(x)
        y, _ = self.attention(y, y, y)
        x = x + y
        return x + self.mlp(x)


class Transformer(nn.Module):
    def __init__(self, *blocks, dim=16):
        super().__init__()
        self.embed, self.place, self.blocks = (
            nn.Linear(8, dim),
            nn.Parameter(torch.randn(1, 6, dim)),
            nn.Sequential(*blocks),
        )
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, 5)

    def forward(self, x):
        return self.head(self.norm(self.blocks(self.embed(x) + self.place)).mean(1))


class Sums(nn.Module):
    """Paths that are summed and fused by a padded convolution that only serves them; `alone`: without a shortcut."""

    def __init__(self, channels, bias, alone=False):
        super().__init__()
        self.a, self.b = (nn.Sequential(nn.Conv2d(channels, 6, 1), nn.ReLU(), nn.Conv2d(6, 12, 1, bias=bias))
                          for _ in range(2))  # fmt: skip
        self.fuse, self.alone = nn.Conv2d(12, channels, 3, 1, 1), alone

    def forward(self, x):
        y = self.fuse(functional.relu(self.a(x) + self.b(x)))
        return y if self.alone else x + y


class Idle(nn.Module):
    """WaveNet's: the last sum along the stream serves nobody, and runs all the same."""

    def __init__(self, channels):
        super().__init__()
        self.inner, self.stream, self.skip = (
            nn.ModuleList(nn.Conv2d(a, b, 1) for _ in range(2))
            for a, b in ((channels, 12), (6, channels), (6, channels))
        )

    def forward(self, x):
        total = x
        for inner, stream, skip in zip(self.inner, self.stream, self.skip, strict=True):
            a, b = inner(x).chunk(2, 1)
            y = a.tanh() * b.sigmoid()
            total, x = total + skip(y), x + stream(y)
        return total


class Measured(nn.Module):
    """What is added is weighed by where it is; the code asks for its shape."""

    def __init__(self, channels):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(channels, 8, 3, 1, 1), nn.Conv2d(8, channels, 3, 1, 1)

    def forward(self, x):
        y = self.conv2(self.conv1(x))
        return x + y * torch.linspace(0, 1, y.shape[-1], dtype=y.dtype)


class Gated(nn.Module):
    """Not without its gate's channels alone (their mean is asked for), but as a whole."""

    def __init__(self, channels):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(channels, 10, 3, 1, 1), nn.Conv2d(10, channels, 1)
        self.down, self.up = nn.Conv2d(10, 4, 1), nn.Conv2d(4, 10, 1)

    def forward(self, x):
        y = self.conv1(x)
        gate = functional.relu(self.down(y.mean((2, 3), keepdim=True)))
        return x + self.conv2(y * (self.up(gate) * gate.mean(1, keepdim=True)).sigmoid())


class Skipping(nn.Module):
    """A branch that reads what another one has left, and the stream before it is subtracted."""

    def __init__(self, channels):
        super().__init__()
        self.a, self.b, self.c = (two_convs(channels, 6) for _ in range(3))

    def forward(self, x):
        y = x + self.a(x)
        return x + self.c(y + self.b(y)) - y


class HourGlass(nn.Module):
    """A U-Net: without its deepest level the transposed convolution goes, too."""

    def __init__(self, channels):
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 12, 3, 2, 1), nn.ConvTranspose2d(12, 10, 2, 2)
        self.out = nn.Conv2d(channels + 10, channels, 3, 1, 1)

    def forward(self, x):
        return self.out(torch.cat([self.up(functional.relu(self.down(x))), x], 1))


class Ghost(nn.Sequential):
    """Inside the branch a concatenation of what the channels leave."""

    def __init__(self, channels):
        super().__init__(nn.Conv2d(channels, 6, 1), nn.ReLU(), nn.Conv2d(6, 8, 1), _Twice(), nn.Conv2d(16, channels, 1))


class _Twice(nn.Module):
    def forward(self, x):
        return torch.cat([x, x.relu()], 1)


class RootMeanSquare(nn.Module):
    """Written by hand, behind a branch."""

    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(dim))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Windowed(nn.Module):
    """The code of the attention is the block's own, and counts on a head being there; the MLP is a module."""

    def __init__(self, dim=16, heads=4):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 24), nn.GELU(), nn.Linear(24, dim))

    def forward(self, x):
        n, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        x = x + self.proj(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).reshape(n, tokens, -1))
        return x + self.mlp(x)


class Queries(nn.Module):
    """The first thing that is done to learned queries does not depend on the input."""

    def __init__(self, dim=16):
        super().__init__()
        self.queries, self.first = nn.Parameter(torch.randn(1, 6, dim)), Block(order="post")
        self.read, self.fc = Attention(2 * dim, 4), nn.Linear(2 * dim, dim)

    def forward(self, x):
        return x + self.fc(self.read(torch.cat([x, self.first(self.queries).expand(len(x), -1, -1)], -1)))


class Told(nn.Module):
    """A residual block that is told something (the time, in diffusion), the same at all positions."""

    def __init__(self, into, out, hint):
        super().__init__()
        self.a, self.b = (
            nn.Sequential(nn.GroupNorm(4, c), nn.SiLU(), nn.Conv2d(c, out, 3, padding=1)) for c in (into, out)
        )
        self.tell, self.skip = nn.Linear(hint, out), nn.Conv2d(into, out, 1)

    def forward(self, x, hint):
        return self.skip(x) + self.b(self.a(x) + self.tell(hint)[:, :, None, None])


class ToldUNet(nn.Module):
    """Where a constant meets a hint alone, what they make is enlarged and laid beside a whole image."""

    def __init__(self, channels):
        super().__init__()
        self.down = nn.Conv2d(channels, channels, 3, 2, 1)
        self.low, self.up = Told(channels, 8, 1), Told(16, channels, 1)
        self.out = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x):
        hint = x.mean((1, 2, 3))[:, None]
        low = self.low(self.down(x), hint)
        up = functional.interpolate(self.up(torch.cat([low, low.relu()], 1), hint), scale_factor=2.0)
        return self.out(torch.cat([up, x], 1))


def encoder(norm_first):
    return nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=norm_first)


NETWORKS = {  # name -> how to make it, and how many of its groups may vanish
    **{join: (lambda join=join: Classifier(*(Residual(two_convs(16, n), join) for n in (8, 6))), 2) for join in JOINS},
    "drop-path": (lambda: Classifier(Residual(two_convs(16, 8), scale=0.5, drop=0.2)), 1),
    "no norm": (lambda: Classifier(Residual(two_convs(16, 8, False), "y += x", 0.1)), 1),
    "pre-activation": (lambda: Classifier(PreActivation(16, 16), PreActivation(16, 20, 2), last=20), 2),
    "bottleneck": (lambda: Classifier(Bottleneck(16, 8), Bottleneck(16, 6)), 4),
    "squeezed": (lambda: Classifier(Squeezed(16, 8), Squeezed(16, 8)), 4),
    "inverted": (lambda: Classifier(Inverted(16, 24), Inverted(16, 20)), 2),
    "border": (lambda: Classifier(Border(16, 8, True), Border(16, 8, False)), 1),
    "scaled": (lambda: Classifier(Scaled(16, 8)), 1),
    "dense": (lambda: Classifier(DenseLayer(16, 4), DenseLayer(20, 4), last=24), 4),
    "dense block": (lambda: Classifier(DenseBlock(16, 4), last=24), 2),
    "inception": (lambda: Classifier(Inception(16)), 4),
    "sums": (lambda: Classifier(Sums(16, True), Sums(16, False)), 6),
    "sums, alone": (lambda: Classifier(Sums(16, True, alone=True)), 1),
    "idle": (lambda: Classifier(Idle(16)), 2),
    "measured": (lambda: Classifier(Measured(16)), 1),
    "gated": (lambda: Classifier(Gated(16)), 2),
    "skipping": (lambda: Classifier(Skipping(16)), 3),
    "hourglass": (lambda: Classifier(HourGlass(16)), 2),
    "u-net": (lambda: Classifier(ToldUNet(16)), 4),
    "ghost": (lambda: Classifier(Residual(Ghost(16))), 2),
    "group norm": (
        lambda: Classifier(
            *(
                Residual(nn.Sequential(two_convs(16, 8, False), norm))
                for norm in (nn.GroupNorm(4, 16), nn.InstanceNorm2d(16, affine=True))
            )
        ),
        2,
    ),
    "paths": (lambda: Classifier(Paths(16)), 1),
    "pre-norm": (lambda: Transformer(Block(), Block()), 4),
    "post-norm": (lambda: Transformer(Block(order="post")), 2),
    "parallel": (lambda: Transformer(Block(order="parallel")), 2),
    "hand-made norm": (
        lambda: Transformer(
            Residual(nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16), RootMeanSquare(16)))
        ),
        1,
    ),
    "windowed": (lambda: Transformer(Windowed()), 1),
    "queries": (lambda: Transformer(Queries()), 5),
    "torch attention": (lambda: Transformer(Torch()), 2),
    "torch encoder": (lambda: Transformer(encoder(False)), 2),
    "torch encoder, pre-norm": (lambda: Transformer(encoder(True)), 2),
}


def made(name):
    """The network in eval mode, and an input."""
    model = NETWORKS[name][0]().eval()
    return model, torch.randn(TOKENS if isinstance(model, Transformer) else IMAGES)
