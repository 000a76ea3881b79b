"""`Source`, and two that everybody has: the bundled digits, and CIFAR as torchvision stores it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autoprune.data.images import Split
from autoprune.data.items import Selection

IMAGENET = "of ImageNet"  # where nobody says what the network was trained with
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
DIGITS_TEST = 360  # of 1,797; the same ones whatever the seed, so that no trained network has seen them


@dataclass(frozen=True, eq=False)
class Source:
    """What a data set brings before it is split, all in memory or none of it.

    `val` is None where it brings none, `mean` empty where unknown.
    """

    train: Split | Selection
    val: Split | Selection | None
    test: Split | Selection | None
    classes: tuple[str, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    augmentation: str = "crop-flip"
    origin: str = "as given"  # whose mean and std these are
    has_names: bool = True  # whether the classes are names, and not numbers because nobody named them
    note: str = ""  # what is to be said of it before a search
    skipped: tuple[str, ...] = ()  # files that were left out because they are damaged


def draw(available: int, count: int, seed: int) -> Tensor:
    """The ascending indices of at most `count` images, drawn by the seed."""
    order = torch.randperm(available, generator=torch.Generator().manual_seed(seed))[:count]
    return order.sort().values


def digits() -> Source:
    """The 1,797 handwritten digits that come with scikit-learn: [N, 1, 8, 8], 360 of them test."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(np.round(bunch.images * (255 / 16)).astype(np.uint8))[:, None]
    every = Split(images, torch.from_numpy(bunch.target.astype(np.int64)))
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(0))
    train, test = every[order[DIGITS_TEST:]], every[order[:DIGITS_TEST]]
    # A mirrored digit is another sign.
    return Source(train, None, test, tuple(map(str, range(10))), (0.305,), (0.376,), "crop", "of the digits")


def cifar(spec: str, kind: str, directory: Path) -> Source:
    """CIFAR-10 or CIFAR-100 (Krizhevsky 2009), downloaded and unpacked before.

    Raises:
        ValueError: If it is not there.
    """
    from torchvision import datasets

    make = datasets.CIFAR10 if kind == "cifar10" else datasets.CIFAR100
    try:
        train, test = (make(str(directory), train=is_train, download=False) for is_train in (True, False))
    except RuntimeError as error:
        raise ValueError(
            f"data '{spec}': {kind} not found or damaged in '{directory}'; fetch it once with python -c "
            f"\"from torchvision.datasets import {make.__name__} as C; C('{directory}', download=True)\""
        ) from error
    parts = [
        Split(torch.from_numpy(d.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(d.targets)) for d in (train, test)
    ]
    return Source(parts[0], None, parts[1], tuple(train.classes), CIFAR_MEAN, CIFAR_STD, origin="of CIFAR-10")
