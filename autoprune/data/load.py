"""`load`: a data set by its name, split by a seed."""

from __future__ import annotations

import numbers
from pathlib import Path
from typing import Any

import torch

from autoprune.data import folder, functions, sources
from autoprune.data.images import ImageData
from autoprune.data.loaders import is_data_set
from autoprune.data.normalisation import choose
from autoprune.data.sources import Source

FOLDERS = ("cifar10", "cifar100", "imagefolder")  # "kind:DIR" is no code
KNOWN = "digits, cifar10:DIR, cifar100:DIR, imagefolder:DIR, package.module:function"


def load(
    spec: Any,
    *,
    seed: int = 0,
    val_images: int | None = None,
    image_size: int | None = None,
    max_images: int | None = None,
    mean: float | tuple[float, ...] | None = None,
    std: float | tuple[float, ...] | None = None,
    augmentation: str | None = None,
    test: bool = True,
) -> ImageData:
    """Load a data set into memory, as bytes, and split it.

    Where the data set brings no validation images of its own, they are the first `val_images` of
    `torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))`, and the others train.

    Args:
        spec: "digits" (1,797 of 8 x 8, comes with scikit-learn), "cifar10:DIR" or "cifar100:DIR" (as torchvision
            stores them), "imagefolder:DIR" (DIR/train/<class>/ and DIR/test or DIR/val, see `folder.read`), or
            "package.module:function" (see `functions.from_function`); or what such a function returns, or the function.
        seed: Of the split.
        val_images: Images held out for validation; default a tenth of the training images.
        image_size: Pixels of a side; images of a folder are resized and cropped to it.
        max_images: Keep at most so many training and so many test images, drawn by the seed.
        mean: What the network was trained with, per channel or one number for all, for pixels in 0..1 (default: the
            data set's usual, else that of the training images); 0, with std 1, leaves pixels in 0..1 as they are.
        std: Likewise.
        augmentation: "crop-flip", "crop" or "none" (default: the data set's usual).
        test: Whether to load the test images too; a worker of a search has no use for them.

    Raises:
        ValueError: If the data set is unknown, missing or unusable.

    Example:
        load("digits", val_images=200)
    """
    given, spec = spec, spec if isinstance(spec, str) else f"{type(spec).__name__} object"
    kind, _, place = spec.partition(":") if isinstance(given, str) else ("", "", "")
    for name, value in (("image_size", image_size), ("max_images", max_images), ("val_images", val_images)):
        if value is not None and (not _is_whole(value) or value < 1):
            raise ValueError(f"data '{spec}': {name} must be at least 1 and whole, got {value!r}")
    if not _is_whole(seed) or not 0 <= seed < 2**32:
        raise ValueError(f"data '{spec}': seed must be a whole number from 0 to {2**32 - 1:,}, got {seed!r}")
    seed = int(seed)
    if image_size is not None and kind != "imagefolder":
        raise ValueError(f"data '{spec}': image_size is for imagefolder:DIR only; leave it out")
    where = f"data '{spec}'"
    if not isinstance(given, str):
        is_function = callable(given) and not is_data_set(given)
        source = (functions.returned_by if is_function else functions.from_object)(where, given)
    elif kind == "digits" and not place:
        source = sources.digits()
    elif kind in ("cifar10", "cifar100"):
        source = sources.cifar(spec, kind, Path(place))
    elif kind == "imagefolder":
        source = folder.read(spec, Path(place), image_size, max_images, seed, test)
    elif place:
        source = functions.from_function(spec)
    else:
        raise ValueError(f"unknown data '{spec}'; known: {KNOWN}")
    return _split(spec, source, seed, val_images, max_images, mean, std, augmentation, test)


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _split(
    spec: str,
    source: Source,
    seed: int,
    val_images: int | None,
    max_images: int | None,
    mean: Any,
    std: Any,
    augmentation: str | None,
    test: bool,
) -> ImageData:
    train, val = source.train, source.val
    if not len(train):
        raise ValueError(f"data '{spec}': no train images found; check the path, or give more images")
    held_out = source.test if test and source.test is not None else train[:0]
    if max_images is not None:
        train, held_out = (part[sources.draw(len(part), max_images, seed)] for part in (train, held_out))
    if val is not None:
        words = f"{len(val)} validation images as the data set brings them"
    else:
        count = max(1, len(train) // 10) if val_images is None else val_images
        if count >= len(train):
            raise ValueError(f"data '{spec}': {count} validation images asked for, but there are only {len(train)} "
                             "training images to take them from; lower val_images")  # fmt: skip
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
        words = f"the first {count} of torch.randperm({len(train)}), seed {seed}, validate; the other images train"
        train, val = train[order[count:]], train[order[:count]]
    chosen_mean, chosen_std, origin = choose(f"data '{spec}'", mean, std, source, train)
    return ImageData(
        train=train, val=val, test=held_out, mean=chosen_mean, std=chosen_std, classes=source.classes,
        augmentation=augmentation or source.augmentation, spec=spec, split=words, origin=origin,
        has_names=source.has_names,
    )  # fmt: skip
