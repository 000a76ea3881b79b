"""torchvision's SSDLite on synthetic scenes of coloured squares, pruned to half of its multiply-adds.

python examples/detection/detection.py [FOLDER]     # some minutes on one core
"""

from __future__ import annotations

import sys
import tempfile

import torch
from torch import Tensor, nn
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

import autoprune
from autoprune.tasks import Detection


def scenes(count: int, seed: int) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """Noisy images of different sizes with one to three squares, each in the colour of its class."""
    draws, found = torch.Generator().manual_seed(seed), []
    for _ in range(count):
        height, width = (int(n) for n in torch.randint(96, 129, (2,), generator=draws))
        image, boxes, labels = 0.3 * torch.rand(3, height, width, generator=draws), [], []
        for _ in range(int(torch.randint(1, 4, (1,), generator=draws))):
            side, label = 24 + int(24 * torch.rand(1, generator=draws)), 1 + int(3 * torch.rand(1, generator=draws))
            x, y = (int((most - side) * torch.rand(1, generator=draws)) for most in (width, height))
            image[:, y : y + side, x : x + side] = 0.1
            image[label - 1, y : y + side, x : x + side] = 0.9
            boxes.append([x, y, x + side, y + side])
            labels.append(label)
        found.append((image, {"boxes": torch.tensor(boxes).float(), "labels": torch.tensor(labels)}))
    return found


def make(seed: int = 0, steps: int = 60, count: int = 64, size: int = 128) -> tuple[nn.Module, Detection]:
    """The network, trained for as many steps, and its task."""
    torch.manual_seed(seed)
    net = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)
    net.transform.min_size, net.transform.max_size, net.transform.fixed_size = (size,), size, (size, size)
    task = Detection(scenes(count, 1), scenes(count // 4, 2), scenes(count // 4, 3), num_classes=4, name="squares")
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    net.train()
    for batch in task.training(8, seed).between(0, steps):
        optimizer.zero_grad()
        task.evaluate(net, batch)[1].backward()
        optimizer.step()
        schedule.step()
    return net.eval(), task


def main(out: str = "", trials: int = 6, steps: int = 60) -> autoprune.SearchResult:
    """Train, search for half of the multiply-adds, print what came out."""
    net, task = make(steps=steps)
    quick = {"trials": trials, "finalists": 2, "short_steps": 10, "epochs": 1}
    result = autoprune.search(net, task, "macs<=50%", name=f"{out or tempfile.mkdtemp()}/run", **quick)
    print(result)
    return result


if __name__ == "__main__":
    main(*sys.argv[1:2])
