"""A U-Net that segments synthetic shapes, pruned to half of its multiply-adds; runs in about a minute on one core.

python examples/segmentation/segmentation.py [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile

import torch
from torch import Tensor, nn
from torch.nn import functional

import autoprune
from autoprune.tasks import Segmentation
from autoprune.training import TrainingSettings, finetune


def double(into: int, out: int) -> nn.Sequential:
    """Two convolutions."""
    pairs = (into, out), (out, out)
    parts = [(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()) for a, b in pairs]
    return nn.Sequential(*sum(parts, ()))


class UNet(nn.Module):
    """Two levels down and up, with skips (Ronneberger et al. 2015, https://arxiv.org/abs/1505.04597)."""

    def __init__(self, width: int = 16, classes: int = 3) -> None:
        super().__init__()
        self.down = nn.ModuleList([double(3, width), double(width, 2 * width)])
        self.up = nn.ModuleList([double(6 * width, 2 * width), double(3 * width, width)])
        self.bottom, self.head = double(2 * width, 4 * width), nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, classes, H, W] scores of images [N, 3, H, W]."""
        skips = []
        for level in self.down:
            skips.append(level(x))
            x = functional.max_pool2d(skips[-1], 2)
        x = self.bottom(x)
        for level, skip in zip(self.up, reversed(skips), strict=True):
            x = level(torch.cat([functional.interpolate(x, scale_factor=2.0), skip], 1))
        return self.head(x)


def shapes(count: int, seed: int, size: int = 32) -> tuple[Tensor, Tensor]:
    """Noisy images of a disc (class 1) and a square (class 2), and their masks."""
    draws = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    images, masks = torch.rand(count, 3, size, size, generator=draws) * 0.6, torch.zeros(count, size, size).long()
    for image, mask in zip(images, masks, strict=True):
        a, b, c, d = torch.randint(7, size - 7, (4,), generator=draws).tolist()
        mask[(x - a) ** 2 + (y - b) ** 2 < 36] = 1
        mask[((x - c).abs() < 5) & ((y - d).abs() < 5)] = 2
        image += 0.25 * (mask > 0) + 0.15 * (mask == 2) * torch.tensor([1.0, -1.0, 0.0])[:, None, None]
    return images, masks


def make(seed: int = 0, steps: int = 150, width: int = 16) -> tuple[nn.Module, Segmentation]:
    """The trained network and its task."""
    torch.manual_seed(seed)
    task = Segmentation(shapes(512, 1), shapes(128, 2), shapes(256, 3), num_classes=3, name="shapes")
    net = UNet(width)
    finetune(net, task, TrainingSettings(optimizer="adamw", lr=3e-3, batch_size=32, seed=seed), steps=max(1, steps))
    return net.eval(), task


def main(out: str = "", trials: int = 8, steps: int = 150) -> autoprune.SearchResult:
    """Train, search for half of the multiply-adds, print what came out."""
    net, task = make(steps=steps)
    quick = {"trials": trials, "finalists": 2, "epochs": 2, "batch_size": 32}
    result = autoprune.search(net, task, "macs<=50%", name=f"{out or tempfile.mkdtemp()}/run", **quick)
    print(result)
    return result


if __name__ == "__main__":
    main(*sys.argv[1:2])
