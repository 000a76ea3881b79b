"""A network that tells rising from falling and steady tones in two noisy channels, pruned to half of its multiply-adds.

python examples/signals/signals.py [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile

import torch
from torch import Tensor, nn

import autoprune
from autoprune.tasks import Signals


def network(classes: int = 3) -> nn.Module:
    """Class scores of signals [N, 2, 128]."""
    layers: list[nn.Module] = []
    for into, out in ((2, 16), (16, 24), (24, 32)):
        layers += [nn.Conv1d(into, out, 7, stride=2, padding=3), nn.BatchNorm1d(out), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(128, classes))


def tones(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy tones [N, 2, 128], and whether their pitch stays, rises or falls."""
    draws = torch.Generator().manual_seed(seed)
    kinds = torch.randint(3, (count,), generator=draws)
    time = torch.linspace(0, 1, 128)
    slope = torch.tensor([0.0, 8.0, -8.0])[kinds][:, None]
    pitch = 12 + 4 * torch.rand(count, 1, generator=draws) + slope * (time - 0.5)
    tone = torch.sin(2 * torch.pi * pitch.cumsum(1) / 128)[:, None]
    return tone + 0.5 * torch.randn(count, 2, 128, generator=draws), kinds


def make(seed: int = 0, steps: int = 200) -> tuple[nn.Module, Signals]:
    """The trained network and its task."""
    torch.manual_seed(seed)
    task, net = Signals(tones(2048, 1), tones(256, 2), tones(256, 3), name="tones"), network()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for batch in task.training(64, seed).between(0, steps):
        optimizer.zero_grad()
        task.evaluate(net, batch)[1].mean().backward()
        optimizer.step()
    return net.eval(), task


def main(out: str = "", trials: int = 8, steps: int = 200) -> autoprune.SearchResult:
    """Train, search for half of the multiply-adds, print what came out."""
    net, task = make(steps=steps)
    quick = {"trials": trials, "finalists": 2, "epochs": 2}
    result = autoprune.search(net, task, "macs<=50%", name=f"{out or tempfile.mkdtemp()}/run", **quick)
    print(result)
    return result


if __name__ == "__main__":
    main(*sys.argv[1:2])
