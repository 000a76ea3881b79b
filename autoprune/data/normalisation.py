"""Which mean and standard deviation the images are normalised with, and what is said about it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from autoprune.data.images import ImageData, Split
from autoprune.data.sources import Source

Numbers = tuple[float, ...]  # per image channel
GIVEN, MEASURED = "as given", "of the training images"


def per_channel(where: str, name: str, value: Any, channels: int) -> Numbers:
    """One number per image channel; a single number counts for all of them, None gives none at all.

    Raises:
        ValueError: If it is something else.
    """
    if value is None:
        return ()
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        several = isinstance(value, Iterable) and getattr(value, "ndim", 1) > 0
        numbers = tuple(float(v) for v in value) if several else (float(value),) * channels
    except (TypeError, ValueError, RuntimeError):
        numbers = ()
    if not numbers or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{where}: {name} must be a number or one number per channel, got {value!r}; leave it out for "
                         "the usual one, or give mean=0 std=1 for pixels of 0..1 as they are")  # fmt: skip
    return numbers


def choose(
    where: str, mean: Any, std: Any, usual: Source, channels: int, train: Callable[[], Split]
) -> tuple[Numbers, Numbers, str]:
    """The mean and the standard deviation in use, and whose they are: given, else the usual ones, else measured."""
    given = {name: per_channel(where, name, value, channels) for name, value in (("mean", mean), ("std", std))}
    usually = {"mean": usual.mean, "std": usual.std}
    unknown = [name for name in given if not (given[name] or usually[name])]
    measured = _measure(train()) if unknown else {}
    found = {name: given[name] or usually[name] or measured[name] for name in given}
    whose = {n: GIVEN if given[n] else MEASURED if n in unknown else usual.origin for n in given}
    same = whose["mean"] == whose["std"]
    return found["mean"], found["std"], whose["mean"] if same else f"mean {whose['mean']}, std {whose['std']}"


def describe(data: ImageData) -> str:
    """How the images are normalised, in a line."""
    mean, std = (", ".join(f"{v:.4g}" for v in numbers) for numbers in (data.mean, data.std))
    return f"images normalised: mean {mean}, std {std} ({data.origin})"


def input_of(data: ImageData) -> dict[str, Any]:
    """What a network of these data is to be fed with, for those who get the network without them."""
    formula = "x[:, c] = (image[:, c] / 255 - mean[c]) / std[c], image [N, C, H, W] of bytes"
    return {"shape": list(data.shape), "mean": list(data.mean), "std": list(data.std), "normalisation": formula}


def output_of(data: ImageData) -> dict[str, Any]:
    """What a network of these data answers; the names of the classes only where they have names."""
    meaning = "logits [N, classes]: argmax is the class number, softmax gives probabilities"
    names = {"classes": list(data.classes)} if data.has_names else {}
    return {"name": "logits", "meaning": meaning, "num_classes": data.num_classes, **names}


def normalised(data: ImageData, mean: float, std: float) -> ImageData:
    """The same data, every channel with this mean and standard deviation (0 and 1: pixels of 0..1 as they are)."""
    return replace(data, mean=(mean,) * len(data.mean), std=(std,) * len(data.std), origin=GIVEN)


def _measure(train: Split) -> dict[str, Numbers]:
    """Of each channel, measured on (at most 10,000) training images."""
    pixels = train.images[:10_000].double() / 255
    mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))
    return {"mean": tuple(mean.tolist()), "std": tuple(std.clamp(min=1e-3).tolist())}
