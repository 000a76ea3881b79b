"""A network that finds the two ends of a bar, pruned to half of its multiply-adds; scored by PCK.

python examples/keypoints/keypoints.py [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile

import torch
from torch import Tensor, nn

import autoprune
from autoprune.tasks import Keypoints


def network() -> nn.Module:
    """Two points [N, 2, 2] of images [N, 1, 24, 24]."""
    layers: list[nn.Module] = []
    for into, out in ((1, 16), (16, 24), (24, 32)):
        layers += [nn.Conv2d(into, out, 3, stride=2, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Linear(32 * 9, 32), nn.ReLU(), nn.Linear(32, 4), nn.Unflatten(1, (2, 2))
    )


def bars(count: int, seed: int, size: int = 24) -> tuple[Tensor, Tensor]:
    """Noisy images of a bar that gets brighter, and its ends (x, y), dark one first, -1 to 1: [N, 2, 2]."""
    draws = torch.Generator().manual_seed(seed)
    ends = torch.rand(count, 2, 2, generator=draws) * 1.6 - 0.8
    along = torch.linspace(0, 1, 20)[:, None]
    places = ends[:, None, 0] * (1 - along) + ends[:, None, 1] * along  # [N, 20, 2]
    column, row = ((places + 1) / 2 * (size - 1)).round().long().unbind(2)
    images = 0.1 * torch.randn(count, 1, size, size, generator=draws)
    images[torch.arange(count)[:, None], 0, row, column] += 0.5 + along[:, 0]
    return images, ends


def make(seed: int = 0, steps: int = 300) -> tuple[nn.Module, Keypoints]:
    """The trained network and its task."""
    torch.manual_seed(seed)
    task, net = Keypoints(bars(2048, 1), bars(256, 2), bars(256, 3), within=0.15, name="bars"), network()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for batch in task.training(64, seed).between(0, steps):
        optimizer.zero_grad()
        task.evaluate(net, batch)[1].mean().backward()
        optimizer.step()
    return net.eval(), task


def main(out: str = "", trials: int = 8, steps: int = 300) -> autoprune.SearchResult:
    """Train, search for half of the multiply-adds, print what came out."""
    net, task = make(steps=steps)
    quick = {"trials": trials, "finalists": 2, "epochs": 2}
    result = autoprune.search(net, task, "macs<=50%", name=f"{out or tempfile.mkdtemp()}/run", **quick)
    print(result)
    return result


if __name__ == "__main__":
    main(*sys.argv[1:2])
