"""A network that says which of five stripes an image holds, any number of them, pruned to half of its multiply-adds.

python examples/multi_label/multi_label.py [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile

import torch
from torch import Tensor, nn

import autoprune
from autoprune.tasks import MultiLabel


def network(labels: int = 5) -> nn.Module:
    """A score for each label of images [N, 1, 20, 20]."""
    layers: list[nn.Module] = []
    for into, out in ((1, 12), (12, 16), (16, 24)):
        layers += [nn.Conv2d(into, out, 3, stride=2, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(24 * 9, labels))


def stripes(count: int, seed: int, labels: int = 5) -> tuple[Tensor, Tensor]:
    """Noisy images, and which of the stripes they hold: [N, labels] of 0 and 1."""
    draws = torch.Generator().manual_seed(seed)
    present = torch.rand(count, labels, generator=draws) < 0.3
    images = 0.5 * torch.randn(count, 1, 20, 20, generator=draws)
    for label in range(labels):
        images[:, 0, 4 * label : 4 * label + 2] += present[:, label, None, None]
    return images, present.long()


def make(seed: int = 0, steps: int = 150) -> tuple[nn.Module, MultiLabel]:
    """The trained network and its task."""
    torch.manual_seed(seed)
    task, net = MultiLabel(stripes(1024, 1), stripes(256, 2), stripes(256, 3), name="stripes"), network()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
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
