"""A network that predicts how diabetes progresses from scikit-learn's table, pruned to half of its multiply-adds.

python examples/tabular/tabular.py [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile

import torch
from sklearn.datasets import load_diabetes
from torch import nn

import autoprune
from autoprune.tasks import TabularNumbers, tabular


def network(columns: int = 10, width: int = 64) -> nn.Module:
    """One number of rows [N, columns]."""
    hidden = nn.Linear(columns, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
    return nn.Sequential(*hidden, nn.Linear(width, 1))


def make(seed: int = 0, steps: int = 200) -> tuple[nn.Module, TabularNumbers]:
    """The trained network and its task; targets are of mean 0 and deviation 1."""
    torch.manual_seed(seed)
    rows, target = (torch.from_numpy(part).float() for part in load_diabetes(return_X_y=True))
    target = (target - target.mean()) / target.std()
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    train, val, test = ((rows[part], target[part]) for part in order.split((300, 70, 72)))
    task, net = tabular(train, val, test, name="diabetes"), network()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.1)
    for batch in task.training(32, seed).between(0, steps):
        optimizer.zero_grad()
        task.evaluate(net, batch)[1].mean().backward()
        optimizer.step()
    return net.eval(), task


def main(out: str = "", trials: int = 8, steps: int = 200) -> autoprune.SearchResult:
    """Train, search for half of the multiply-adds, print what came out."""
    net, task = make(steps=steps)
    quick = {"trials": trials, "finalists": 2, "epochs": 2, "batch_size": 32}
    result = autoprune.search(net, task, "macs<=50%", name=f"{out or tempfile.mkdtemp()}/run", **quick)
    print(result)
    return result


if __name__ == "__main__":
    main(*sys.argv[1:2])
