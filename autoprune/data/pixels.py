"""Data sets, PIL images, arrays and tensors, as bytes in memory."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoprune.data.images import CLASSIFICATION, Split
from autoprune.data.memory import check_memory
from objectives.plugins import running

COLOURS = (1, 3)  # how many channels images have, as a rule
LEAST, OBLONG = 5, 4  # pixels of a side, and how many times the other one: what is smaller or longer may be anything
ANOTHER = f"this is another task; {CLASSIFICATION}"
TWICE = 64  # items that are read twice: one that is changed at random one time in ten is caught, but for 1 in 800


def described(thing: Any) -> str:
    """What something is, in a few words: "(ndarray [300, 1, 8, 8], ndarray [300])"."""
    if isinstance(thing, Mapping):
        return "a dict with " + (", ".join(f"{k}: {described(v)}" for k, v in thing.items()) or "nothing")
    if isinstance(thing, (tuple, list)) and len(thing) <= 4:
        return f"({', '.join(map(described, thing))})"
    name = type(thing).__name__
    return f"{name} {list(thing.shape)}" if hasattr(thing, "shape") else name


def to_split(where: str, dataset: Any) -> Split:
    """A data set of (image, label), or a pair of tensors, as bytes in memory.

    Raises:
        ValueError: If it holds no images, images of different sizes, something that is no image, or gives an item read
            twice in two ways.
    """
    if is_pair(dataset):
        return _pair(where, *dataset)
    _check_map_style(where, dataset)
    with running(where, "when asked for its length"):
        count = len(dataset)
    images, labels = torch.empty(0), []
    for i in range(count):
        image, label = read_item(where, dataset, i)
        labels.append(label)
        if not i:
            way = "give fewer (torch.utils.data.Subset), or smaller ones"
            check_memory(where, count, image.numel(), way)  # now, and not when it is full
            images = torch.empty((count, *image.shape), dtype=torch.uint8)
        if image.shape != images.shape[1:]:
            way = "resize them" if len(image) == images.shape[1] else "give all of them the same channels"
            raise ValueError(f"{where}: {item_name(dataset, i)} is {list(image.shape)} but the first is "
                             f"{list(images.shape[1:])} (C, H, W); {way} in the data set's transform")  # fmt: skip
        images[i] = image
    if not count:
        raise ValueError(f"{where}: no images found")
    _check_fixed(where, dataset, images, labels)
    return Split(images, torch.tensor(labels))


def is_pair(dataset: Any) -> bool:
    """Whether it is (images, labels), which are in memory already."""
    return isinstance(dataset, (tuple, list)) and len(dataset) == 2 and hasattr(dataset[0], "shape")


def num_bytes(where: str, dataset: Any) -> int:
    """What a data set would take in memory, as its first item has it; nothing for what is there already.

    Raises:
        ValueError: If it is no data set of (image, class number).
    """
    if is_pair(dataset):
        return 0
    _check_map_style(where, dataset)
    with running(where, "when asked for its length"):
        count = len(dataset)
    return count * read_item(where, dataset, 0)[0].numel() if count else 0


def _check_map_style(where: str, dataset: Any) -> None:
    if isinstance(dataset, Mapping) or not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise ValueError(f"{where}: must be a pair (images, labels), or a data set with a length and items (image, "
                         f"label), got {described(dataset)}")  # fmt: skip


def item_name(dataset: Any, i: int) -> str:
    """What item `i` is called, with its file where torchvision tells it: "item 7 ('photos/cat/7.jpg')"."""
    part, at = dataset, i
    try:
        while hasattr(part, "indices") and hasattr(part, "dataset"):  # torch.utils.data.Subset
            part, at = part.dataset, part.indices[at]
        return f"item {i} ('{part.samples[at][0]}')"
    except Exception:  # not all have files, and none is needed here
        return f"item {i}"


def read_item(where: str, dataset: Any, i: int) -> tuple[Tensor, int]:
    """Item `i`: its image [C, H, W] uint8, its class number."""
    name = f"{where}: {item_name(dataset, i)}"
    with running(name):
        item = dataset[i]
    try:
        image, label = item
    except (TypeError, ValueError) as error:
        text = f"{name} must be (image, class number), got {described(item)}; {CLASSIFICATION}"
        raise ValueError(text) from error
    number = _class_number(name, item, label)
    return to_image(name, image), number


def _class_number(where: str, item: Any, label: Any) -> int:
    """A class number as data sets give it: an int, or an array or tensor with one; 3.0 counts as 3."""
    with contextlib.suppress(TypeError, ValueError, RuntimeError, OverflowError):
        if not isinstance(label, (str, bytes)) and float(label) == (number := int(label)):
            return number
    text = f"{where} must be (image, class number), got {described(item)}"
    what = f" with the label {label!r}" if isinstance(label, (str, bytes, float)) else ""
    raise ValueError(f"{text}{what}; {ANOTHER}")


def _check_fixed(where: str, dataset: Any, images: Tensor, labels: Sequence[int]) -> None:
    """Check on some items, read once more, that the data set always gives the same.

    It is read into memory once, so what it draws at random would be frozen as it happened to be.
    """
    if len(dataset) != len(images):
        raise ValueError(f"{where}: had {len(images)} items when it was read and has {len(dataset)} now; "
                         "give a data set that stays as it is")  # fmt: skip
    for i in np.unique(np.linspace(0, len(images) - 1, num=TWICE).astype(int)).tolist():
        image, label = read_item(where, dataset, i)
        if label != labels[i]:
            raise ValueError(f"{where}: item {i} is of class {labels[i]} when it is read first and of class {label} "
                             "when it is read again; give a data set in a fixed order (no shuffling)")  # fmt: skip
        if image.shape != images[i].shape or not torch.equal(image, images[i]):
            raise ValueError(
                f"{where}: item {i} has other pixels each time it is read, but images are read once and kept; give "
                "the plain pixels (no random transform, no shuffling) and name the augmentation instead: "
                "augmentation='crop-flip', 'crop' or 'none' (--data-args augmentation=...); or have them read anew "
                "each time: --data-memory 0"
            )


def to_image(where: str, image: Any) -> Tensor:
    """[C, H, W] uint8 from a PIL image, an [H, W] or [H, W, C] array, or an [H, W] or [C, H, W] tensor."""
    if is_picture := hasattr(image, "convert"):  # PIL
        image = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    if not isinstance(image, (np.ndarray, Tensor)) or image.ndim not in (2, 3):
        raise ValueError(f"{where}: expected a PIL image, an [H, W, C] array or a [C, H, W] tensor, "
                         f"got {described(image)}")  # fmt: skip
    if image.ndim == 2:
        if not is_picture:
            _check_picture(where, image.shape, "H, W")
        image = image[None]
    elif isinstance(image, Tensor):
        if channels_last(image.shape):
            raise ValueError(f"{where}: a tensor must be [C, H, W] (an array [H, W, C]), got {list(image.shape)}; "
                             "give image.permute(2, 0, 1)")  # fmt: skip
    elif channels_last([*image.shape[1:], image.shape[0]]):  # the channels first
        raise ValueError(f"{where}: an array must be [H, W, C] (a tensor [C, H, W]), got {list(image.shape)}; give "
                         "torch.from_numpy(image)")  # fmt: skip
    else:
        image = image.transpose(2, 0, 1)
    return to_bytes(where, _tensor(where, image))


def to_bytes(where: str, pixels: Tensor) -> Tensor:
    """Pixels as uint8; floats must lie in 0..1."""
    if pixels.dtype in (torch.uint8, torch.bool):
        return pixels.to(torch.uint8) * (255 if pixels.dtype == torch.bool else 1)
    values = pixels if pixels.is_floating_point() else pixels.double()
    low, high = (float(v) for v in values.aminmax()) if values.numel() else (0.0, 0.0)
    if pixels.is_floating_point() and -1e-3 <= low <= high <= 1 + 1e-3:  # resizing rounds
        return pixels.clamp(0, 1).mul(255).round().to(torch.uint8)
    if math.isnan(low):
        way = "find out where the NaN come from"
    elif not pixels.is_floating_point():
        way = "give 0..255 as uint8, or divide by the largest value there can be"
    elif low >= 0:
        way = "divide by the largest value there can be"
    else:
        way = "leave out the normalisation, autoprune does it (give mean and std)"
        way += "; loaders that keep theirs are a task (Task.of, --task)"
    found = f"{str(pixels.dtype).removeprefix('torch.')} from {low:.4g} to {high:.4g}"
    raise ValueError(f"{where}: pixels must be bytes (uint8) or floats in 0..1, found {found}; {way}")


def channels_last(shape: Sequence[int]) -> bool:
    """Whether a shape must be [..., H, W, C] and not [..., C, H, W]: one or three channels of a picture's shape.

    Not what only may be: 12 channels of 1,000 x 1 samples, say, or the 64 channels of 1 x 1 that a layer makes.
    """
    *_, height, width, channels = shape
    short, long = sorted((height, width))
    return channels in COLOURS and short >= LEAST and (short == long if channels == 1 else long <= OBLONG * short)


def _pair(where: str, images: Any, labels: Any) -> Split:
    """[N, C, H, W] or [N, H, W] pixels and [N] class numbers."""
    pixels, numbers = _tensor(where, images), _tensor(where, labels)
    if pixels.dim() not in (3, 4):
        raise ValueError(f"{where}: images must be [N, C, H, W] or [N, H, W], got {list(pixels.shape)}; {ANOTHER}")
    if pixels.dim() == 3:
        _check_picture(where, pixels.shape, "N, H, W")
    if pixels.dim() == 4 and channels_last(pixels.shape):
        way = "give images.transpose(0, 3, 1, 2) of an array, images.permute(0, 3, 1, 2) of a tensor"
        raise ValueError(f"{where}: images must be [N, C, H, W] or [N, H, W], got {list(pixels.shape)}; {way}")
    whole = not numbers.is_complex() and torch.equal(numbers.long().to(numbers.dtype), numbers)
    if numbers.dim() != 1:
        one = numbers.dim() == 2 and numbers.shape[1] == 1
        one_hot = numbers.dim() == 2 and bool(((numbers == 0) | (numbers == 1)).all() and (numbers.sum(1) == 1).all())
        way = "give labels[:, 0]" if one and whole else "give labels.argmax(1)" if one_hot and not one else ANOTHER
        raise ValueError(f"{where}: labels must be [N] class numbers, got {list(numbers.shape)}; {way}")
    if pixels.is_complex() or numbers.is_complex():
        raise ValueError(f"{where}: images and labels must be real numbers, got {pixels.dtype} and {numbers.dtype}")
    if len(pixels) != len(numbers):
        raise ValueError(f"{where}: needs one label per image, got {len(pixels)} images but {len(numbers)} labels")
    if not whole:
        raise ValueError(f"{where}: labels must be class numbers 0, 1, 2 ..., found fractions; {ANOTHER}")
    pixels = to_bytes(where, pixels)
    return Split(pixels if pixels.dim() == 4 else pixels[:, None], numbers.long())


def _check_picture(where: str, shape: Sequence[int], letters: str) -> None:
    """Check that what comes without a channel axis is a picture, and not a series such as sound [1, T]."""
    short, long = sorted(shape[-2:])
    if short < LEAST and long > OBLONG * short:
        tiny = f"give so small images their channel axis, [{letters.replace('H', 'C, H')}]"
        raise ValueError(f"{where}: {list(shape)} does not look like [{letters}]; {tiny}, or {ANOTHER}")


def _tensor(where: str, values: Any) -> Tensor:
    """What is an array, or can be made one, as a tensor; copied only where torch cannot share it."""
    if isinstance(values, Tensor):
        return values
    try:
        return torch.from_numpy(np.require(values, requirements=["C", "W"]))
    except (TypeError, ValueError, RuntimeError) as error:  # strings, objects
        raise ValueError(f"{where}: images and labels must be arrays or tensors of numbers, got {described(values)} "
                         f"({error})") from error  # fmt: skip
