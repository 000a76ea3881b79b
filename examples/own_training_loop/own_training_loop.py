"""A training loop of your own: the search finds the network, you train it, the run delivers what you have trained.

python examples/own_training_loop/own_training_loop.py [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

import autoprune
from search_spaces.models import digits_cnn


def train(net: nn.Module, images: torch.Tensor, labels: torch.Tensor, steps: int) -> None:
    """Nothing here is autoprune's."""
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    draws = torch.Generator().manual_seed(0)
    net.train()
    for _ in range(steps):
        batch = torch.randint(len(images), (64,), generator=draws)
        optimizer.zero_grad()
        functional.cross_entropy(net(images[batch]), labels[batch]).backward()
        optimizer.step()
    net.eval()


def main(out: str = "", trials: int = 8, steps: int = 200) -> autoprune.SearchResult:
    """Search without a fine-tune (epochs=0), train, attach."""
    torch.manual_seed(0)
    dense, found = digits_cnn(), load_digits()
    images, labels = torch.from_numpy(found.images).float()[:, None] / 16, torch.from_numpy(found.target)
    train(dense, images[:1400], labels[:1400], steps)
    data = {"train": (images[:1400], labels[:1400]), "test": (images[1400:], labels[1400:])}
    quick = {"trials": trials, "finalists": 0, "epochs": 0, "data_args": {"mean": 0, "std": 1}}  # pixels as they are
    result = autoprune.search(dense, data, "macs<=50%", name=f"{out or tempfile.mkdtemp()}/run", **quick)
    train(result.model, images[:1400], labels[:1400], steps)
    result.attach()  # checked, measured and exported in place of what the search had made
    print(result)
    print(f"delivered: {autoprune.load(result.run_dir / 'best', model=dense)}")
    return result


if __name__ == "__main__":
    main(*sys.argv[1:2])
