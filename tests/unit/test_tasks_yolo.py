"""A detector of the user's own: C2f, SPPF, PAN, a decoupled head and its own loss go through `Task.of`."""

import pytest
import torch
from small_tasks import scenes
from torch import nn
from torch.nn import functional as F

import autoprune
from autoprune.tasks import Task
from autoprune.training import TrainingSettings, finetune
from search_spaces import trace, verify

SIZE, CLASSES = 32, 2


class Conv(nn.Sequential):
    def __init__(self, into, out, kernel=1, stride=1):
        conv = nn.Conv2d(into, out, kernel, stride, kernel // 2, bias=False)
        super().__init__(conv, nn.BatchNorm2d(out), nn.SiLU())


class C2f(nn.Module):
    def __init__(self, into, out):
        super().__init__()
        self.half = out // 2
        self.first, self.last = Conv(into, out), Conv(3 * self.half, out)
        self.inner = nn.Sequential(Conv(self.half, self.half, 3), Conv(self.half, self.half, 3))

    def forward(self, x):
        one, two = self.first(x).chunk(2, 1)
        return self.last(torch.cat([one, two, two + self.inner(two)], 1))


class SPPF(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.first, self.last = Conv(channels, channels // 2), Conv(2 * channels, channels)

    def forward(self, x):
        found = [self.first(x)]
        for _ in range(3):
            found.append(F.max_pool2d(found[-1], 5, 1, 2))
        return self.last(torch.cat(found, 1))


class Head(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.boxes = nn.Sequential(Conv(channels, 8, 3), nn.Conv2d(8, 4, 1))
        self.classes = nn.Sequential(Conv(channels, 8, 3), nn.Conv2d(8, CLASSES, 1))

    def forward(self, x):
        return torch.cat([self.boxes(x), self.classes(x)], 1).flatten(2)


class Yolo(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.small, self.large = Conv(3, 8, 3, 2), C2f(16, 16), C2f(16, 16)
        self.down, self.deeper, self.pool = Conv(8, 16, 3, 2), Conv(16, 16, 3, 2), SPPF(16)
        self.up, self.back, self.out = C2f(32, 16), Conv(16, 16, 3, 2), C2f(32, 16)
        self.heads = nn.ModuleList([Head(16), Head(16)])

    def forward(self, x):
        p3 = self.small(self.down(self.stem(x)))
        p4 = self.pool(self.large(self.deeper(p3)))
        n3 = self.up(torch.cat([F.interpolate(p4, scale_factor=2), p3], 1))  # PAN: up, then down again
        n4 = self.out(torch.cat([self.back(n3), p4], 1))
        return torch.cat([head(x) for head, x in zip(self.heads, (n3, n4), strict=True)], 2)  # [N, 4 + classes, cells]


def loss(outputs, targets):
    """Every cell learns the one object of its image: distances to its sides, and its class."""
    boxes, labels = targets["boxes"] / SIZE, targets["labels"]
    near = F.l1_loss(outputs[:, :4], boxes[:, :, None].expand_as(outputs[:, :4]), reduction="none").mean((1, 2))
    wanted = F.one_hot(labels - 1, CLASSES).float()[:, :, None].expand_as(outputs[:, 4:])
    return near + F.binary_cross_entropy_with_logits(outputs[:, 4:], wanted, reduction="none").mean((1, 2))


def batches(count, seed):
    samples = [s for s in scenes(2 * count, seed) if len(s[1]["boxes"])][:count]
    images = torch.stack([F.interpolate(image[None], (SIZE, SIZE))[0] for image, _ in samples])
    boxes = torch.cat([t["boxes"] * SIZE / max(image.shape[1:]) for image, t in samples])
    found = {"boxes": boxes, "labels": torch.cat([t["labels"] for _, t in samples])}
    return [(images[i : i + 8], {k: v[i : i + 8] for k, v in found.items()}) for i in range(0, count, 8)]


def test_its_training_lowers_its_own_loss():
    torch.manual_seed(0)
    task = Task.of(batches(24, 1), batches(16, 2), loss=loss, name="yolo", sample="image")
    losses = finetune(Yolo(), task, TrainingSettings(lr=0.02, device="cpu", amp="off"), steps=18).losses
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_it_is_searched_by_its_own_loss(here):
    torch.manual_seed(0)
    net = Yolo().eval()
    assert verify(net, trace(net, torch.zeros(1, 3, SIZE, SIZE)), torch.zeros(1, 3, SIZE, SIZE)) < 1e-4
    task = Task.of(batches(24, 1), batches(16, 2), batches(8, 3), loss=loss, name="yolo", sample="image")
    quick = {"trials": 2, "finalists": 1, "short_steps": 2, "epochs": 1, "warm_starts": "none", "strategy": "random"}
    result = autoprune.search(net, task, budget="macs<=50%", name="run", device="cpu", progress=False, **quick)
    assert result.costs["macs"]["pruned"] <= 0.5 * result.costs["macs"]["dense"]
    assert result.metrics["pruned_test"]["loss"] == pytest.approx(
        sum(float(loss(result.model(x), y).mean().detach()) for x, y in batches(8, 3)), rel=1e-2
    )
