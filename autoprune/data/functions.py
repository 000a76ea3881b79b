"""The user's own data, or a function that gives them: what they may be, and a sentence for what they must not."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Set
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import TensorDataset

from autoprune.data.dataset_items import DatasetItems
from autoprune.data.images import Split
from autoprune.data.items import Selection, Streaming
from autoprune.data.loaders import class_names, data_set_of, is_data_set
from autoprune.data.normalisation import per_channel
from autoprune.data.pixels import described, is_pair, num_bytes, to_split
from autoprune.data.sources import IMAGENET, IMAGENET_MEAN, IMAGENET_STD, Source
from objectives import find
from objectives.plugins import running

PARTS = ("train", "val", "test")
KEYS = (*PARTS, "mean", "std", "classes", "augmentation")
MOST_CLASSES = 100_000  # ImageNet-21k has 21,841


def from_function(spec: str, streaming: Streaming | None = None) -> Source:
    """What the user's function returns: (train, test), (train, val, test), or a dict with these names.

    Each part is a data set of (image, class number) as torchvision has them, or a pair of tensors. Images are PIL
    images, uint8 tensors or floats in 0..1, [C, H, W], not normalised. A dict may also bring "mean" and "std" (per
    channel or one number for all: what the network was trained with), "classes" and "augmentation"; `val` may be None.

    Raises:
        ValueError: If the function is missing, needs arguments or returns something else.
    """
    function = find("data", spec, {})
    if not callable(function):
        raise ValueError(f"data '{spec}': expected a function, found {type(function).__name__}")
    return returned_by(f"data '{spec}'", function, streaming)


def returned_by(where: str, function: Any, streaming: Streaming | None = None) -> Source:
    """What a function returns: see `from_function`.

    Raises:
        ValueError: If it needs arguments, fails, or returns something else.
    """
    if needed := _needed(function):
        raise ValueError(f"{where}: the function must take no arguments, but needs {', '.join(needed)}; give them "
                         "defaults")  # fmt: skip
    with running(where):
        returned = function()
    return from_object(where, returned, "the function must return", streaming)


def from_object(where: str, returned: Any, expected: str = "expected", streaming: Streaming | None = None) -> Source:
    """Data as a function may return them, or a single data set or loader, which trains (see `from_function`).

    Args:
        where: What errors begin with.
        returned: The data.
        expected: What they are, for an error.
        streaming: When data sets are streamed, and how; None: never.

    Raises:
        ValueError: If they are something else.
    """
    found = _named(where, returned, expected)
    given = {n: data_set_of(f"{where}: {n}", found[n]) for n in PARTS if found.get(n) is not None}
    if streaming and streaming.wanted(sum(num_bytes(f"{where}: {name}", part) for name, part in given.items())):
        parts: dict[str, Any] = {name: _streamed(f"{where}: {name}", part, streaming) for name, part in given.items()}
    else:
        parts = {name: to_split(f"{where}: {name}", part) for name, part in given.items()}
    train, val, test = (parts.get(name) for name in PARTS)
    assert train is not None  # `_named` checks it
    is_random = isinstance(train, Selection) and train.items.draws  # augmented already
    channels = (train.few(1) if isinstance(train, Selection) else train).images.shape[1]
    mean, std = (per_channel(where, name, found.get(name), channels) for name in ("mean", "std"))
    origin = "as the function says"
    if channels == 3 and not mean and not std:
        mean, std, origin = IMAGENET_MEAN, IMAGENET_STD, IMAGENET
    augmentation = found.get("augmentation") or ("none" if is_random else "crop-flip")
    has_names = (found.get("classes") is not None) or class_names(found["train"]) is not None
    return Source(train, val, test, _classes(where, found, train), mean, std, augmentation, origin, has_names)


def _streamed(where: str, part: Any, streaming: Streaming) -> Selection:
    """A data set, or a pair in memory that stands beside one, read whenever a sample is wanted."""
    part = part if not is_pair(part) else TensorDataset(*(torch.as_tensor(values) for values in part))
    items = DatasetItems(where, part, streaming.workers, streaming.skip)
    assert items.labels is not None
    sound = items.labels >= 0
    return Selection(items, torch.arange(len(items)) if bool(sound.all()) else sound.nonzero()[:, 0])


def _needed(function: Any) -> list[str]:
    """The arguments that it cannot be called without."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some builtins have none to show
        return []
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in kinds]


def _classes(where: str, found: Mapping[str, Any], train: Split | Selection) -> tuple[str, ...]:
    """The names of the classes: given, else the data set's own, else as many numbers as there are labels."""
    given = found.get("classes")
    given = class_names(found["train"]) if given is None else given
    if given is None:
        given = range(int(train.labels.max()) + 1 if len(train) else 0)
        if len(given) > MOST_CLASSES:
            raise ValueError(f"{where}: train has the label {given[-1]}; labels are class numbers 0, 1, 2 ..., one for "
                             "each class: number the classes anew")  # fmt: skip
    if isinstance(given, (str, bytes, Set)) or not isinstance(given, Iterable):
        raise ValueError(f"{where}: classes must be a list of names, in the order of the labels, got {given!r}")
    with running(f"{where}: classes"):
        names = tuple(str(name) for name in islice(given, MOST_CLASSES + 1))
    if len(names) > MOST_CLASSES:
        raise ValueError(f"{where}: classes has more than {MOST_CLASSES:,} names; give one for each class")
    return names


def _named(where: str, returned: Any, expected: str) -> Mapping[str, Any]:
    """What the function returned, by the names of its parts."""
    found = returned
    if is_data_set(found):
        found = {"train": found}
    if isinstance(found, (tuple, list)) and len(found) in (2, 3):
        found = dict(zip(("train", "test") if len(found) == 2 else PARTS, found, strict=True))
    if (
        not isinstance(found, Mapping)
        or found.get("train") is None
        # An array is no data set: the function returned (images, labels).
        or any(isinstance(found.get(name), (np.ndarray, torch.Tensor)) for name in PARTS)
    ):
        raise ValueError(f"{where}: {expected} (train, test), (train, val, test) or a dict with these names, each a "
                         "pair (images, labels) or a data set, also in a DataLoader; got "
                         f"{described(returned)}")  # fmt: skip
    if unknown := [str(key) for key in found if key not in KEYS]:
        raise ValueError(f"{where}: a dict with unknown {', '.join(unknown)}; known: "
                         f"{', '.join(KEYS)}")  # fmt: skip
    return found
