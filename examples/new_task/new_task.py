"""A task of your own: what the network is for. Here depth from one image, scored by its largest error.

python examples/new_task/new_task.py [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

import autoprune
from autoprune.tasks import Task
from autoprune.training import TrainingSettings, finetune


class Depth(Task):
    """Planes that get brighter as they come nearer; the network says how far each pixel is."""

    def batches(self, split: str, epoch: int = 0) -> Iterator[Any]:
        """The batches of "train", "calibration", "val" or "test", from the seed and the epoch alone."""
        first = {"train": 1000 * (epoch + 1), "calibration": 1000, "val": 1, "test": 100}[split]
        for number in range(first, first + (16 if split == "train" else 4)):
            draws = torch.Generator().manual_seed(number)
            near, slope = torch.rand(2, 32, 1, 1, 1, generator=draws)
            depth = (near + slope * torch.linspace(0, 1, 16)[:, None]).expand(-1, -1, 16, 16)
            yield 1 / (1 + depth) + 0.05 * torch.randn(32, 1, 16, 16, generator=draws), depth

    def loss(self, outputs: Tensor, batch: Any) -> Tensor:
        """[N]: one number a sample."""
        return (outputs - batch[1]).abs().mean((1, 2, 3))

    def scores(self) -> dict[str, Any]:
        """What is measured besides: a function of (outputs, targets) that gives [N]."""
        return {"largest": lambda outputs, targets: (outputs - targets).abs().amax((1, 2, 3))}


def main(out: str = "", trials: int = 8, epochs: float = 4.0) -> autoprune.SearchResult:
    """Train, search, print what came out."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Conv2d(16, 1, 3, padding=1))
    finetune(net, Depth(), TrainingSettings(epochs=epochs, lr=0.02))
    quick = {"trials": trials, "finalists": 0, "epochs": epochs, "criterion": "l1"}
    result = autoprune.search(net, Depth(), "macs<=50%", name=f"{out or tempfile.mkdtemp()}/run", **quick)
    print(result)
    return result


if __name__ == "__main__":
    main(*sys.argv[1:2])
