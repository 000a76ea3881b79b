"""Several candidates in one pass get what each gets alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.data import ImageData, Split
from autoprune.evaluation import EvaluationSettings, Evaluator, Together
from search_spaces import trace
from search_spaces.models import ResNetCifar

SETTINGS = EvaluationSettings(
    bn_samples=48, fit_samples=32, val_samples=64, batch_size=16, device="cpu", amp="off", abandon=False
)


class Inverted(nn.Module):
    """Expand, depthwise, project, with a shortcut (MobileNetV2)."""

    def __init__(self, channels, norm):
        super().__init__()
        wide = 3 * channels
        self.body = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False), norm(wide), nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False), norm(wide), nn.ReLU6(),
            nn.Conv2d(wide, channels, 1, bias=True), norm(channels),
        )  # fmt: skip

    def forward(self, x):
        return x + self.body(x)


def mobile(norm=nn.BatchNorm2d):
    blocks = [Inverted(8, norm), nn.Conv2d(8, 12, 3, 2, 1, padding_mode="reflect"), norm(12), Inverted(12, norm)]
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        norm(8),
        nn.ReLU(),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 10),
    )


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x):
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Patches, a class token, positions, two blocks."""

    def __init__(self, width=16, heads=4):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, width)), nn.Parameter(torch.randn(1, 5, width))
        self.blocks = nn.Sequential(Block(width, heads), Block(width, heads))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x):
        x = self.patches(x).flatten(2).mT
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


class Unusual(nn.Module):
    """Transposed convolutions, tied weights, statistics of the batch, calls by keyword, keys of another width."""

    def __init__(self):
        super().__init__()
        self.down, self.norm = nn.Conv2d(3, 12, 2, 2), nn.BatchNorm2d(12, track_running_stats=False)
        self.one, self.two = nn.Conv2d(12, 12, 3, padding=1), nn.Conv2d(12, 12, 3, padding=1)
        self.two.weight = self.one.weight
        self.norm1, self.norm2 = nn.BatchNorm2d(12), nn.BatchNorm2d(12)
        self.up, self.tokens = nn.ConvTranspose2d(12, 8, 2, 2), nn.Linear(8, 16)
        self.attention = nn.MultiheadAttention(16, 4, kdim=12, vdim=12, batch_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = torch.relu(self.norm(self.down(x)))
        x = x + torch.relu(self.norm1(input=self.one(input=x)))
        x = x + torch.relu(self.norm2(self.two(x)))
        y, keys = self.tokens(torch.relu(self.up(x)).mean(2).mT), x.flatten(2).mT
        y = y + self.attention(query=y, key=keys, value=keys, need_weights=False)[0]
        return self.head(input=torch.relu(y).mean(1))


NETWORKS = {
    "resnet": lambda: ResNetCifar(8),
    "mobilenet": mobile,
    "group norm": lambda: mobile(lambda channels: nn.GroupNorm(4, channels)),
    "vit": ViT,
    "unusual": Unusual,
}


def data(seed=0):
    rng = np.random.default_rng(seed)

    def images(count):
        pixels = torch.from_numpy(rng.integers(0, 256, (count, 3, 8, 8), dtype=np.uint8))
        return Split(pixels, torch.from_numpy(rng.integers(0, 10, count)))

    return ImageData(images(100), images(64), images(0), (0.5,) * 3, (0.25,) * 3, tuple("0123456789"))


def shaken(net):
    """With statistics and scales that are not those of a fresh network."""
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.dim() == 1 and tensor.is_floating_point():
                tensor.add_(0.3 * torch.rand(tensor.shape))
    return net.eval()


@pytest.fixture(scope="module", params=NETWORKS)
def evaluator(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = shaken(NETWORKS[request.param]())
    space = trace(net, data().example)
    scores = tuple(np.random.default_rng(i).random(g.size) for i, g in enumerate(space.groups))
    return Evaluator(net, data(), space, scores, SETTINGS)


def plain(metrics):
    return {k: v for k, v in metrics.items() if not k.startswith("seconds")}


@pytest.mark.parametrize("fidelity", ["raw", "proxy", "reconstructed"])
def test_each_gets_what_it_gets_alone(evaluator, fidelity):
    space = evaluator.space
    drawn = [space.sample(np.random.default_rng(seed)) for seed in (1, 2)]
    candidates = [*drawn, space.full, space.floor]
    found = Together(evaluator)(candidates, fidelity)
    losses = []
    for widths, metrics in zip(candidates, found, strict=True):
        alone = plain(evaluator(widths, fidelity))
        assert plain(metrics).keys() == alone.keys()
        assert metrics["loss"] == pytest.approx(alone["loss"], rel=1e-5)
        assert metrics["batch_losses"] == pytest.approx(alone["batch_losses"], rel=1e-4)
        assert metrics["top1"] == pytest.approx(alone["top1"], abs=1 / 64)
        losses.append(metrics["loss"])
    assert len(set(losses)) == len(losses)


def test_what_came_before_does_not_matter(evaluator):
    together, space = Together(evaluator), evaluator.space
    some, other = ([space.sample(np.random.default_rng(seed))] for seed in (3, 4))
    first = plain(together(some, "reconstructed")[0])
    together([*other, *other], "proxy")
    assert plain(together(some, "reconstructed")[0]) == first


def test_validation_samples_are_read_once(evaluator, monkeypatch):
    reads, batches = [], evaluator.val.batches
    together = Together(evaluator)
    monkeypatch.setattr(evaluator.val, "batches", lambda size: reads.append(size) or batches(size))
    together([evaluator.space.full, evaluator.space.floor], "raw")
    assert len(reads) == 1


def test_trainings_are_refused(evaluator):
    with pytest.raises(ValueError, match="fidelity 'short' trains"):
        Together(evaluator)([evaluator.space.full], "short")


class Squeezed(nn.Module):
    """Multiplies two branches as matrices: a sum over channels outside of any layer."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1), nn.Linear(64, 10)

    def forward(self, x):
        gram = self.a(x).flatten(2).mT @ self.b(x).flatten(2)
        return self.head(gram.mean(1))


class PositionsFirst(nn.Module):
    """Batch-norm over rows that are not in the order of samples, before anything is cut."""

    def __init__(self):
        super().__init__()
        self.rows, self.norm, self.out, self.head = (
            nn.Linear(3, 8),
            nn.BatchNorm1d(8),
            nn.Linear(8, 6),
            nn.Linear(6, 10),
        )

    def forward(self, x):
        rows = x.flatten(2).permute(2, 0, 1)
        found = self.norm(self.rows(rows.flatten(0, 1))).unflatten(0, rows.shape[:2]).transpose(0, 1)
        return self.head(torch.relu(self.out(torch.relu(found))).mean(1))


class Counted(nn.Module):
    """Knows some numbers of samples only."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 8, 1), nn.Linear(8, 10)

    def forward(self, x):
        return self.head(torch.relu(self.two(torch.relu(self.one(x)))).mean((2, 3))) * {1: 1.0, 2: 1.0}[len(x)]


@pytest.mark.parametrize(
    ("make", "why"),
    [(Squeezed, "it sums over channels"), (PositionsFirst, "they do not answer there"), (Counted, "KeyError: 4")],
)
def test_networks_that_cannot_share_a_pass_are_refused_in_a_sentence(make, why):
    net = make().eval()
    space = trace(net, data().example)
    assert space.groups
    one = Evaluator(net, data(), space, tuple(np.ones(g.size) for g in space.groups), replace(SETTINGS, val_samples=8))
    with pytest.raises(ValueError, match=rf"together: .* cannot share a pass \({why}[^\n]*one at a time"):
        Together(one)


class Full(nn.Module):
    """Memory for so many samples."""

    most = 10**6

    def forward(self, x):
        if len(x) > self.most:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {len(x)} GiB")
        return x


def test_as_many_go_together_as_memory_holds():
    net = nn.Sequential(Full(), *mobile()).eval()
    space = trace(net, data().example)
    evaluator = Evaluator(net, data(), space, tuple(np.arange(1.0, g.size + 1) for g in space.groups), SETTINGS)
    together, some = Together(evaluator), [space.sample(np.random.default_rng(seed)) for seed in range(5)]
    expected = [plain(found) for found in together(some)]
    together._net.net[0].most = 2 * SETTINGS.batch_size
    for _ in range(2):
        assert [plain(found) for found in together(some)] == expected
    together._net.net[0].most = SETTINGS.batch_size - 1
    with pytest.raises(torch.OutOfMemoryError):
        together(some)
