"""A network that predicts where a bright spot lies, pruned to half of its multiply-adds; data through `Task.of`.

python examples/regression/regression.py [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import autoprune
from autoprune.tasks import Task


def network(width: int = 16) -> nn.Module:
    """Two coordinates from an image [N, 1, 24, 24]."""
    layers: list[nn.Module] = []
    for into, out in ((1, width), (width, width * 3 // 2), (width * 3 // 2, 2 * width)):
        layers += [nn.Conv2d(into, out, 3, stride=2, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(18 * width, 3 * width), nn.ReLU(), nn.Linear(3 * width, 2))


def spots(count: int, seed: int) -> TensorDataset:
    """Noisy images of one spot, and where it is, -1 to 1."""
    draws = torch.Generator().manual_seed(seed)
    places = torch.rand(count, 2, generator=draws) * 2 - 1
    at = torch.linspace(-1, 1, 24)
    away = (at - places[:, :1])[:, None, :] ** 2 + (at - places[:, 1:])[:, :, None] ** 2
    images = torch.exp(-away / 0.02) + 0.3 * torch.randn(count, 24, 24, generator=draws)
    return TensorDataset(images[:, None], places)


def error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Distance of each guess."""
    return (outputs - targets).norm(dim=1)


def make(seed: int = 0, steps: int = 300, width: int = 16) -> tuple[nn.Module, Task]:
    """The trained network and its task."""
    torch.manual_seed(seed)
    train, val, test = (DataLoader(spots(n, s), 64, shuffle=s == 1) for n, s in ((4096, 1), (256, 2), (512, 3)))
    task = Task.of(train, val, test, loss=functional.mse_loss, metrics={"distance": error}, sample="image")
    net = network(width)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for batch in task.training(64, seed).between(0, steps):
        optimizer.zero_grad()
        task.evaluate(net, batch)[1].mean().backward()
        optimizer.step()
        schedule.step()
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
