"""`load`: a data set by its name, split by a seed."""

from __future__ import annotations

import numbers
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from autoprune.data import folder, folder_items, functions, sources
from autoprune.data.image_stream import ImageStream
from autoprune.data.images import ImageData, Split
from autoprune.data.items import Selection, Streaming
from autoprune.data.loaders import is_data_set
from autoprune.data.normalisation import choose
from autoprune.data.sources import Source

MEASURED = 1024  # streamed images from which mean and standard deviation are measured, where nobody says them
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
    skip_damaged: bool = False,
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
        augmentation: "crop-flip", "none", or some of crop, flip, random-resized-crop and randaugment joined by +
            (default: the data set's usual).
        skip_damaged: Whether image files that cannot be read are left out, and counted, instead of being refused.
        test: Whether to load the test images too; a worker of a search has no use for them.

    Raises:
        ValueError: If the data set is unknown, missing or unusable.

    Example:
        load("digits", val_images=200)
    """
    found = load_or_stream(
        spec, Streaming(), seed=seed, val_images=val_images, image_size=image_size, max_images=max_images, mean=mean,
        std=std, augmentation=augmentation, skip_damaged=skip_damaged, test=test,
    )  # fmt: skip
    assert isinstance(found, ImageData)
    return found


def load_or_stream(
    spec: Any,
    streaming: Streaming,
    *,
    seed: int = 0,
    val_images: int | None = None,
    image_size: int | None = None,
    max_images: int | None = None,
    mean: float | tuple[float, ...] | None = None,
    std: float | tuple[float, ...] | None = None,
    augmentation: str | None = None,
    skip_damaged: bool = False,
    test: bool = True,
) -> ImageData | ImageStream:
    """As `load`, but what is too large for the memory given is streamed, where it can be read sample by sample."""
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
    if not isinstance(skip_damaged, bool):
        raise ValueError(f"data '{spec}': skip_damaged must be true or false, got {skip_damaged!r}")
    where, streaming = f"data '{spec}'", replace(streaming, skip=skip_damaged)
    if not isinstance(given, str):
        is_function = callable(given) and not is_data_set(given)
        make = functions.returned_by if is_function else functions.from_object
        source = make(where, given, streaming=streaming)
    elif kind == "digits" and not place:
        source = sources.digits()
    elif kind in ("cifar10", "cifar100"):
        source = sources.cifar(spec, kind, Path(place))
    elif kind == "imagefolder":
        found = folder.listed(spec, Path(place), image_size, max_images, seed, test, skip_damaged)
        source = (folder_items.streamed if streaming.wanted(found.num_bytes) else folder.decoded)(found)
    elif place:
        source = functions.from_function(spec, streaming)
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
) -> ImageData | ImageStream:
    train, val = source.train, source.val
    if not len(train):
        raise ValueError(f"data '{spec}': no train images found; check the path, or give more images")
    held_out = source.test if test and source.test is not None else train.subset(slice(0))
    if max_images is not None:
        train, held_out = (part.subset(sources.draw(len(part), max_images, seed)) for part in (train, held_out))
    if val is not None:
        words = f"{len(val)} validation images as the data set brings them"
    else:
        count = max(1, len(train) // 10) if val_images is None else val_images
        if count >= len(train):
            raise ValueError(f"data '{spec}': {count} validation images asked for, but there are only {len(train)} "
                             "training images to take them from; lower val_images")  # fmt: skip
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
        words = f"the first {count} of torch.randperm({len(train)}), seed {seed}, validate; the other images train"
        train, val = train.subset(order[count:]), train.subset(order[:count])
    few: dict[str, Any] = {n: p if isinstance(p, Split) else p.few(1) for n, p in (("train", train), ("val", val))}
    few["test"] = few["train"].subset(slice(0))
    whole: dict[str, Any] = {"train": train, "val": val, "test": held_out}
    sampled = partial(Selection.few, train, MEASURED) if isinstance(train, Selection) else lambda: train
    channels = few["train"].images.shape[1]
    chosen_mean, chosen_std, chosen_origin = choose(f"data '{spec}'", mean, std, source, channels, sampled)
    told: dict[str, Any] = {
        "mean": chosen_mean, "std": chosen_std, "classes": source.classes, "spec": spec, "split": words,
        "augmentation": augmentation or source.augmentation, "origin": chosen_origin, "has_names": source.has_names,
        "skipped": source.skipped, "note": source.note,
    }  # fmt: skip
    if isinstance(train, Split):
        return ImageData(**whole, **told)
    return ImageStream.of(ImageData(**few, **told), whole)
