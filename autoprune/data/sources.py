"""Where images come from: the bundled digits, CIFAR as torchvision stores it, and the user's own function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoprune.data.images import Split
from objectives import find

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
DIGITS_TEST = 360  # of 1,797; the same ones whatever the seed, so that no trained network has seen them


@dataclass(frozen=True, eq=False)
class Source:
    """What a data set brings before it is split; `val` is None where it brings none, `mean` empty where unknown."""

    train: Split
    val: Split | None
    test: Split | None
    classes: tuple[str, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    augmentation: str = "crop-flip"


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
    return Source(train, None, test, tuple(map(str, range(10))), (0.305,), (0.376,), augmentation="crop")


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
    return Source(parts[0], None, parts[1], tuple(train.classes), CIFAR_MEAN, CIFAR_STD)


def from_function(spec: str) -> Source:
    """What the user's function returns: (train, test), (train, val, test), or a dict with these names.

    Each part is a data set of (image, class number) as torchvision has them, or a pair of tensors. Images are PIL
    images, uint8 tensors or floats in 0..1, [C, H, W], not normalised. A dict may also bring "mean", "std", "classes"
    and "augmentation"; `val` may be None.

    Raises:
        ValueError: If the function is missing or returns something else.
    """
    function = find("data", spec, {})
    if not callable(function):
        raise ValueError(f"data '{spec}': expected a function, found {type(function).__name__}")
    found = function()
    if isinstance(found, (tuple, list)) and len(found) in (2, 3):
        names = ("train", "test") if len(found) == 2 else ("train", "val", "test")
        found = dict(zip(names, found, strict=True))
    if not isinstance(found, Mapping) or found.get("train") is None:
        raise ValueError(f"data '{spec}': the function must return (train, val, test) or a dict with these names, "
                         f"got {type(found).__name__}")  # fmt: skip
    train, val, test = (
        None if found.get(name) is None else to_split(f"data '{spec}': {name}", found[name])
        for name in ("train", "val", "test")
    )
    assert train is not None  # checked above
    classes = found.get("classes") or getattr(found["train"], "classes", None)
    classes = classes or range(int(train.labels.max()) + 1 if len(train) else 0)
    usual = (IMAGENET_MEAN, IMAGENET_STD) if train.images.shape[1] == 3 else ((), ())
    return Source(
        train, val, test, tuple(map(str, classes)), tuple(found.get("mean") or usual[0]),
        tuple(found.get("std") or usual[1]), found.get("augmentation", "crop-flip"),
    )  # fmt: skip


def to_split(where: str, dataset: Any) -> Split:
    """A data set of (image, label), or a pair of tensors, as bytes in memory.

    Raises:
        ValueError: If it holds no images, images of different sizes, or something that is no image.
    """
    if isinstance(dataset, (tuple, list)) and len(dataset) == 2 and hasattr(dataset[0], "shape"):
        pixels = to_bytes(where, torch.as_tensor(dataset[0]))
        return Split(pixels if pixels.dim() == 4 else pixels[:, None], torch.as_tensor(dataset[1]).long())
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise ValueError(f"{where}: expected a data set with a length and items (image, label), "
                         f"got {type(dataset).__name__}")  # fmt: skip
    images: list[Tensor] = []
    labels: list[int] = []
    for i in range(len(dataset)):
        image, label = dataset[i]
        image = to_image(f"{where} image {i}", image)
        if images and image.shape != images[0].shape:
            raise ValueError(f"{where}: image {i} is {list(image.shape)} but the first is {list(images[0].shape)} "
                             "(C, H, W); resize them in the data set's transform")  # fmt: skip
        images.append(image)
        labels.append(int(label))
    if not images:
        raise ValueError(f"{where}: no images found")
    return Split(torch.stack(images), torch.tensor(labels))


def to_image(where: str, image: Any) -> Tensor:
    """[C, H, W] uint8 from a PIL image, an [H, W] or [H, W, C] array, or a [C, H, W] tensor."""
    if hasattr(image, "convert"):  # PIL
        image = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(image[None] if image.ndim == 2 else np.ascontiguousarray(image.transpose(2, 0, 1)))
    if not isinstance(image, Tensor) or image.dim() != 3:
        raise ValueError(f"{where}: expected a PIL image or a [C, H, W] tensor, got {type(image).__name__}")
    return to_bytes(where, image)


def to_bytes(where: str, pixels: Tensor) -> Tensor:
    """Pixels as uint8; floats must lie in 0..1."""
    if pixels.dtype == torch.uint8:
        return pixels
    if not pixels.is_floating_point() or (pixels.numel() and not (pixels.min() >= 0 and pixels.max() <= 1)):
        raise ValueError(f"{where}: expected bytes or floats in 0..1, found {pixels.dtype} beyond that; leave out the "
                         "normalisation, autoprune does it (give mean and std)")  # fmt: skip
    return pixels.mul(255).round().to(torch.uint8)
