"""A network of timm, pruned to half of its multiply-adds. Needs `pip install timm`.

python examples/timm_network/timm_network.py [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile

import timm
import torch
from sklearn.datasets import load_digits
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset, random_split

import autoprune
from autoprune.tasks import Task
from autoprune.training import TrainingSettings, finetune


def digits() -> Task:
    """scikit-learn's digits as images [N, 3, 32, 32], in loaders of your own."""
    found = load_digits()
    images = functional.interpolate(torch.from_numpy(found.images).float()[:, None] / 16, 32).repeat(1, 3, 1, 1)
    parts = TensorDataset(images, torch.from_numpy(found.target))
    train, val, test = random_split(parts, (1200, 200, 397), torch.Generator().manual_seed(0))
    loaders = DataLoader(train, 64, shuffle=True, drop_last=True), DataLoader(val, 200), DataLoader(test, 200)
    return Task.of(*loaders, loss=functional.cross_entropy, metrics={"top1": top1}, sample="image")


def top1(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """[N]: 1 where the class is right."""
    return (outputs.argmax(1) == targets).float()


def main(out: str = "", trials: int = 6, epochs: float = 3.0) -> autoprune.SearchResult:
    """Train, search, print what came out. With weights of timm: `create_model(..., pretrained=True)`."""
    torch.manual_seed(0)
    net = timm.create_model("mobilenetv3_small_050", num_classes=10)
    finetune(net, task := digits(), TrainingSettings(epochs=epochs, lr=0.05))
    quick = {"trials": trials, "finalists": 0, "epochs": epochs, "score_samples": 256}
    result = autoprune.search(net, task, "macs<=50%", name=f"{out or tempfile.mkdtemp()}/run", **quick)
    print(result)
    return result


if __name__ == "__main__":
    main(*sys.argv[1:2])
