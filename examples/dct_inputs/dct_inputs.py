"""How few frequencies of an image does a network need? The channels that it is fed with are pruned like any other.

python examples/dct_inputs/dct_inputs.py
"""

from __future__ import annotations

import math

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.criteria import score_all
from search_spaces import kept_inputs, prune, select_inputs, trace

BLOCK = 8


def coefficients(images: Tensor) -> Tensor:
    """[N, 1, H, W] pixels -> [N, 64, H / 8, W / 8]: channel 8 v + u is the frequency (v, u) of each block (DCT-II)."""
    pixel, frequency = torch.arange(BLOCK), torch.arange(BLOCK)[:, None]
    waves = torch.cos(math.pi * (pixel + 0.5) * frequency / BLOCK) * math.sqrt(2 / BLOCK)  # [frequency, pixel]
    waves[0] /= math.sqrt(2)
    n, _, height, width = images.shape
    blocks = images.reshape(n, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    return torch.einsum("vy,nhywx,ux->nvuhw", waves, blocks, waves).flatten(1, 2)


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and test images as normalised coefficients, with their labels."""
    found = load_digits()
    x = coefficients(F.interpolate(torch.from_numpy(found.images).float()[:, None] / 16, 32, mode="bicubic"))
    x = (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True)
    order, y = torch.from_numpy(np.random.default_rng(0).permutation(len(x))), torch.from_numpy(found.target)
    return x[order[:1400]], y[order[:1400]], x[order[1400:]], y[order[1400:]]


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


def main(counts: tuple[int, ...] = (32, 16, 8, 4, 2, 1), epochs: int = 10) -> dict[int, float]:
    """Print how many frequencies give which test accuracy, and which they are; returns the accuracies."""
    torch.manual_seed(0)
    x, y, test_x, test_y = digits()
    layers = [nn.Conv2d(64, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 2), nn.ReLU()]
    dense = fit(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)), x, y, epochs)
    found = {64: float((dense(test_x).argmax(1) == test_y).float().mean())}
    print(f"64 frequencies: accuracy {found[64]:.3f}")
    space = trace(dense, x[:1], prune_inputs=True)
    scores = score_all("taylor", dense, space, [(x[i : i + 256], y[i : i + 256]) for i in range(0, len(y), 256)])
    for count in counts:
        widths = tuple(count if group.name == "input" else group.size for group in space.groups)
        small = prune(dense, space, space.kept(widths, scores))
        fit(small, select_inputs(small, x), y, max(1, epochs // 2), rate=0.02)  # fed with the kept ones from here on
        found[count] = float((small(select_inputs(small, test_x)).argmax(1) == test_y).float().mean())
        kept = [] if (taken := kept_inputs(small)) is None else taken.tolist()
        which = ", ".join(f"({i // BLOCK},{i % BLOCK})" for i in kept[:8])
        print(f"{count:2} frequencies: accuracy {found[count]:.3f}  {which}{' ...' if count > 8 else ''}")
    return found


if __name__ == "__main__":
    main()
