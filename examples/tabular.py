"""A network that predicts how diabetes progresses from scikit-learn's table, pruned to half of its multiply-adds.

python examples/tabular.py [--trials 8]     # a table of your own: autoprune search --data tabular:FILE.csv --model ...
"""

from __future__ import annotations

import argparse

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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=8)
    settings = parser.parse_args()
    model, task = make()
    quick = {"trials": settings.trials, "finalists": 2, "epochs": 2, "batch_size": 32}
    print(autoprune.search(model, task, budget="macs<=50%", **quick))
