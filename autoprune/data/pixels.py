"""Data sets, PIL images, arrays and tensors, as bytes in memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoprune.data.images import Split

COLOURS = (1, 3)  # how many channels images have, as a rule
LEAST, OBLONG = 5, 4  # pixels of a side, and how many times the other one: what is smaller or longer may be anything


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
        ValueError: If it holds no images, images of different sizes, or something that is no image.
    """
    if isinstance(dataset, (tuple, list)) and len(dataset) == 2 and hasattr(dataset[0], "shape"):
        return _pair(where, *dataset)
    if isinstance(dataset, Mapping) or not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise ValueError(f"{where}: must be a pair (images, labels), or a data set with a length and items (image, "
                         f"label), got {described(dataset)}")  # fmt: skip
    images: list[Tensor] = []
    labels: list[int] = []
    for i in range(len(dataset)):
        item = dataset[i]
        try:
            image, label = item
            labels.append(int(label))
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{where}: item {i} must be (image, class number), got {described(item)}") from error
        image = to_image(f"{where} image {i}", image)
        if images and image.shape != images[0].shape:
            raise ValueError(f"{where}: image {i} is {list(image.shape)} but the first is {list(images[0].shape)} "
                             "(C, H, W); resize them in the data set's transform")  # fmt: skip
        images.append(image)
    if not images:
        raise ValueError(f"{where}: no images found")
    return Split(torch.stack(images), torch.tensor(labels))


def to_image(where: str, image: Any) -> Tensor:
    """[C, H, W] uint8 from a PIL image, an [H, W] or [H, W, C] array, or an [H, W] or [C, H, W] tensor."""
    if hasattr(image, "convert"):  # PIL
        image = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    if not isinstance(image, (np.ndarray, Tensor)) or image.ndim not in (2, 3):
        raise ValueError(f"{where}: expected a PIL image, an [H, W, C] array or a [C, H, W] tensor, "
                         f"got {described(image)}")  # fmt: skip
    if image.ndim == 2:
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
    if pixels.dim() not in (3, 4) or (pixels.dim() == 4 and channels_last(pixels.shape)):
        way = "; give images.transpose(0, 3, 1, 2) of an array, images.permute(0, 3, 1, 2) of a tensor"
        raise ValueError(f"{where}: images must be [N, C, H, W] or [N, H, W], got {list(pixels.shape)}"
                         f"{way if pixels.dim() == 4 else ''}")  # fmt: skip
    if numbers.dim() != 1:
        one = numbers.dim() == 2 and numbers.shape[1] == 1
        way = "give labels[:, 0]" if one else "one-hot labels have them as labels.argmax(1)"
        raise ValueError(f"{where}: labels must be [N] class numbers, got {list(numbers.shape)}; {way}")
    if len(pixels) != len(numbers):
        raise ValueError(f"{where}: needs one label per image, got {len(pixels)} images but {len(numbers)} labels")
    if not torch.equal(numbers.long().to(numbers.dtype), numbers):
        raise ValueError(f"{where}: labels must be class numbers 0, 1, 2 ..., found fractions; round them")
    pixels = to_bytes(where, pixels)
    return Split(pixels if pixels.dim() == 4 else pixels[:, None], numbers.long())


def _tensor(where: str, values: Any) -> Tensor:
    """What is an array, or can be made one, as a tensor; copied only where torch cannot share it."""
    if isinstance(values, Tensor):
        return values
    try:
        return torch.from_numpy(np.require(values, requirements=["C", "W"]))
    except (TypeError, ValueError, RuntimeError) as error:  # strings, objects
        raise ValueError(f"{where}: images and labels must be arrays or tensors of numbers, got {described(values)} "
                         f"({error})") from error  # fmt: skip
