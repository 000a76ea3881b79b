"""A user's map-style data set of (image, class number) that is read whenever a sample is wanted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from autoprune.data.augmentation import augmentation_steps, transform
from autoprune.data.items import Damaged, Items, some
from autoprune.data.loading import Loaded, loaded, processes
from autoprune.data.pixels import TWICE, item_name, read_item
from autoprune.randomness import GlobalStream
from objectives.plugins import PluginError, running

_AT_ONCE = 256  # samples whose labels are read in one go
LABELS = ("targets", "labels", "_labels")  # what torchvision's data sets call the class numbers of all samples


class DatasetItems(Items):
    """Its transform is called anew each time; what it draws at random comes from the global generators.

    Args:
        where: What errors begin with.
        dataset: With a length and items (image, class number).
        workers: Processes that read all labels, where the data set does not tell them: -1 for what is left out.
        skip: Whether items that raise are left out.

    Raises:
        ValueError: If its items are not such, or its length is not that of what it holds.
    """

    augments = True

    def __init__(self, where: str, dataset: Any, workers: int | str, skip: bool) -> None:
        self.where, self._dataset, self.skip = where, dataset, skip
        with running(where, "when asked for its length"):
            self._count = len(dataset)
        if not self._count:
            raise ValueError(f"{where}: no images found")
        self._shape = read_item(where, dataset, 0)[0].shape
        self._check_length()
        self.draws, self.exact = self._looked_at()
        self.labels = known_labels(where, dataset, self._count)
        if self.labels is None:
            each = range(-(-self._count // _AT_ONCE))
            found = loaded(where, _Labels(self), each, processes(workers))
            self.labels = torch.cat([part.targets for part in found])

    def __len__(self) -> int:
        return self._count

    def name(self, number: int) -> str:
        """Item, and its file where the data set tells it."""
        return item_name(self._dataset, number)

    @property
    def sample_bytes(self) -> int:
        """One byte a number."""
        return int(self._shape.numel())

    def read(self, number: int, train: bool) -> tuple[Tensor, int]:
        """[C, H, W] uint8, and its class."""
        try:
            image, label = read_item(self.where, self._dataset, number)
        except PluginError as error:
            raise Damaged(str(error)) from error
        if image.shape != self._shape:
            way = "resize them" if len(image) == self._shape[0] else "give all of them the same channels"
            raise ValueError(f"{self.where}: {self.name(number)} is {list(image.shape)} but the first is "
                             f"{list(self._shape)} (C, H, W); {way} in the data set's transform")  # fmt: skip
        if self.labels is not None and label != int(self.labels[number]):
            raise ValueError(f"{self.where}: {self.name(number)} is of class {int(self.labels[number])} when it is "
                             f"read first and of class {label} when it is read again; give a data set in a fixed order "
                             "(no shuffling)")  # fmt: skip
        steps = augmentation_steps(self.augmentation) if train else ()
        return transform(steps, *self._shape[1:])(image) if steps else image, label

    def described(self, numbers: Tensor) -> Iterator[bytes]:
        """Classes and shape of all; the pixels of some, read with one seed."""
        yield f"{list(self._shape)}".encode()
        if self.labels is not None:
            yield self.labels[numbers].numpy().tobytes()
        with GlobalStream(0).drawing():
            for number in some(numbers):
                try:
                    yield self.read(number, train=False)[0].contiguous().numpy().tobytes()
                except Damaged:
                    yield b"unreadable"

    def _check_length(self) -> None:
        """A length that lies is seen at the last item."""
        try:
            read_item(self.where, self._dataset, self._count - 1)
        except PluginError as error:
            if not isinstance(error.__cause__, IndexError):
                return  # a damaged one: whoever reads it will say so
            text = f"{self.where}: says that it has {self._count} items, but has no item {self._count - 1} (IndexError)"
            raise ValueError(f"{text}; give a data set whose length is that of what it holds") from error

    def _looked_at(self) -> tuple[bool, bool]:
        """Whether samples differ each time they are read, as with a random transform; whether a seed repeats them."""
        differ, repeats = False, True
        for number in some(torch.arange(self._count), TWICE):
            try:
                first, again, other = (self._with_seed(number, seed) for seed in (0, 0, 1))
            except Damaged:
                if not self.skip:
                    raise
                continue
            differ, repeats = differ or not torch.equal(again, other), repeats and torch.equal(first, again)
        return differ, repeats

    def _with_seed(self, number: int, seed: int) -> Tensor:
        with GlobalStream(seed).drawing():
            return self.read(number, train=False)[0]


class _Labels(Dataset[Loaded]):
    """The class numbers of some samples a step; -1 for what cannot be read."""

    def __init__(self, items: DatasetItems) -> None:
        self._items = items

    def __getitem__(self, step: int) -> Loaded:
        labels = []
        for number in range(step * _AT_ONCE, min((step + 1) * _AT_ONCE, len(self._items))):
            try:
                labels.append(self._items.read(number, train=False)[1])
            except ValueError as error:
                if not (self._items.skip and isinstance(error, Damaged)):
                    return Loaded(error=ValueError(str(error)))
                labels.append(-1)
        return Loaded(targets=torch.tensor(labels))


def known_labels(where: str, dataset: Any, count: int) -> Tensor | None:
    """The class numbers that a data set tells without reading its images; None: it does not.

    They are held against those of some items.
    """
    part: Any = dataset
    numbers = torch.arange(count)
    while isinstance(part, Subset):
        part, numbers = part.dataset, torch.as_tensor(part.indices)[numbers]
    for name in LABELS:
        with contextlib.suppress(TypeError, ValueError, IndexError, RuntimeError):
            told = torch.as_tensor(np.asarray(getattr(part, name, None)))
            if told.dim() == 1 and not told.is_floating_point() and len(told) > int(numbers.max()):
                labels = told.long()[numbers]
                with contextlib.suppress(PluginError):
                    if all(read_item(where, dataset, i)[1] == labels[i] for i in some(torch.arange(count), TWICE)):
                        return labels
    return None
