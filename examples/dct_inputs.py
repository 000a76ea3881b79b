"""How few frequencies of an image does a network need?

After "Learning in the frequency domain" (Xu et al. 2020, https://arxiv.org/abs/2002.12416). A network is fed with what
a JPEG file holds: every block of 8 x 8 pixels as the 64 coefficients of its discrete cosine transform, one channel a
frequency. They are pruned like any other group: scored by a criterion, the best kept, the rest of the network trained
on for a moment. The images are the handwritten digits of scikit-learn, enlarged to 32 x 32. About a minute on one core.

    python examples/dct_inputs.py
"""

from __future__ import annotations

import argparse
import math

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.criteria import score_all
from search_spaces import kept_inputs, prune, select_inputs, trace

BLOCK = 8


def cosines() -> Tensor:
    """The orthonormal DCT-II of a block: [frequency, pixel]."""
    pixel, frequency = torch.arange(BLOCK), torch.arange(BLOCK)[:, None]
    waves = torch.cos(math.pi * (pixel + 0.5) * frequency / BLOCK) * math.sqrt(2 / BLOCK)
    waves[0] /= math.sqrt(2)
    return waves


def coefficients(images: Tensor) -> Tensor:
    """[N, 1, H, W] pixels -> [N, 64, H / 8, W / 8]: channel 8 v + u is the frequency (v, u) of each block."""
    n, _, height, width = images.shape
    blocks = images.reshape(n, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    return torch.einsum("vy,nhywx,ux->nvuhw", cosines(), blocks, cosines()).flatten(1, 2)


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and test images as normalised coefficients, with their labels."""
    found = load_digits()
    images = torch.from_numpy(found.images).float()[:, None] / 16
    x = coefficients(F.interpolate(images, 32, mode="bicubic"))
    x = (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True)
    y = torch.from_numpy(found.target)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(y)))
    train, test = order[:1400], order[1400:]
    return x[train], y[train], x[test], y[test]


def network() -> nn.Sequential:
    """A small convolutional network on 4 x 4 blocks."""
    return nn.Sequential(
        nn.Conv2d(64, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


def fit(model: nn.Module, x: Tensor, y: Tensor, epochs: int, rate: float = 0.05) -> nn.Module:
    """Plain SGD with a cosine schedule."""
    optimiser = torch.optim.SGD(model.parameters(), rate, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(y)).split(64):
            optimiser.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimiser.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Fraction of the images that are classified correctly."""
    return float((model(x).argmax(1) == y).float().mean())


def main(counts: tuple[int, ...] = (32, 16, 8, 4, 2, 1), epochs: int = 10) -> dict[int, float]:
    """Print how many frequencies give which test accuracy, and which they are; returns the accuracies."""
    torch.manual_seed(0)
    x, y, test_x, test_y = digits()
    dense = fit(network(), x, y, epochs)
    found = {64: accuracy(dense, test_x, test_y)}
    print(f"64 frequencies: accuracy {found[64]:.3f}")
    space = trace(dense, x[:1], prune_inputs=True)
    scores = score_all("taylor", dense, space, [(x[i : i + 256], y[i : i + 256]) for i in range(0, len(y), 256)])
    for count in counts:
        widths = tuple(count if group.name == "input" else group.size for group in space.groups)
        small = prune(dense, space, space.kept(widths, scores))
        few_x, few_test_x = select_inputs(small, x), select_inputs(small, test_x)  # what it is fed with from here on
        fit(small, few_x, y, max(1, epochs // 2), rate=0.02)
        found[count] = accuracy(small, few_test_x, test_y)
        kept = kept_inputs(small)
        assert kept is not None
        which = ", ".join(f"({i // BLOCK},{i % BLOCK})" for i in kept[:8]) + (" ..." if count > 8 else "")
        print(f"{count:2} frequencies: accuracy {found[count]:.3f}  {which}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    main(epochs=parser.parse_args().epochs)
