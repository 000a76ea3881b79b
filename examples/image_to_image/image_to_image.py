"""A network that doubles the resolution of handwritten digits, pruned to half of its multiply-adds; scored by PSNR.

python examples/image_to_image/image_to_image.py [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import autoprune
from autoprune.tasks import ImageToImage


def network(width: int = 16) -> nn.Module:
    """[N, 1, H, W] -> [N, 1, 2 H, 2 W] (Shi et al. 2016, https://arxiv.org/abs/1609.05158)."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 4, 3, padding=1), nn.PixelShuffle(2),
    )  # fmt: skip


def digits() -> list[tuple[Tensor, Tensor]]:
    """Small images and the large ones of 0 to 1 that they were made of, [N, 1, 16, 16]: train, val and test."""
    images = torch.from_numpy(load_digits().images).float()[:, None] / 16
    large = functional.interpolate(images, 16, mode="bicubic").clamp(0, 1)
    small = functional.avg_pool2d(large, 2)
    return [(small[part], large[part]) for part in (slice(1400), slice(1400, 1600), slice(1600, None))]


def make(seed: int = 0, steps: int = 150) -> tuple[nn.Module, ImageToImage]:
    """The trained network and its task."""
    torch.manual_seed(seed)
    task, net = ImageToImage(*digits(), name="digits"), network()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    for batch in task.training(64, seed).between(0, steps):
        optimizer.zero_grad()
        task.evaluate(net, batch)[1].mean().backward()
        optimizer.step()
    return net.eval(), task


def main(out: str = "", trials: int = 8, steps: int = 150) -> autoprune.SearchResult:
    """Train, search for half of the multiply-adds, print what came out."""
    net, task = make(steps=steps)
    quick = {"trials": trials, "finalists": 2, "epochs": 2}
    result = autoprune.search(net, task, "macs<=50%", name=f"{out or tempfile.mkdtemp()}/run", **quick)
    print(result)
    return result


if __name__ == "__main__":
    main(*sys.argv[1:2])
