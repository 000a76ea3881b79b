"""A network that reads scikit-learn's handwritten digits, pruned to half of its multiply-adds.

python examples/classification/classification.py [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile

import torch
from torch import nn

import autoprune
from autoprune.data import load
from autoprune.tasks import Classification
from search_spaces.models import digits_cnn


def make(seed: int = 0, steps: int = 150) -> tuple[nn.Module, Classification]:
    """The trained network and its task."""
    torch.manual_seed(seed)
    task, net = Classification(load("digits")), digits_cnn()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    net.train()
    for batch in task.training(64, seed).between(0, steps):
        optimizer.zero_grad()
        task.evaluate(net, batch)[1].mean().backward()
        optimizer.step()
        schedule.step()
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
