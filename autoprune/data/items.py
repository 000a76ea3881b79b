"""`Items`: samples that are read one at a time, by any process, when they are wanted: more than memory holds."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from autoprune.data.images import Split

REPAIR = "repair it, remove it, or leave such files out (--data-args skip_damaged=true)"
LOOKED_AT = 256  # samples whose contents enter the fingerprint


class Damaged(ValueError):
    """A sample that cannot be read; one that may be left out, if that is asked for."""


def stacked(values: Sequence[Any]) -> Tensor:
    """Tensors, or numbers, of many samples as one tensor."""
    return torch.stack(list(values)) if isinstance(values[0], Tensor) else torch.tensor(values)


class Items(ABC):
    """What a data set holds, wherever it lies. Small when it is pickled, whatever the samples are.

    Attributes:
        where: What errors begin with.
        labels: [N] class numbers; None where a sample is more than one class.
        augments: Whether `read` augments, so that nothing else needs to,
        augmentation: and how: see `augmentation_steps`.
        skip: Whether damaged samples are left out, instead of being refused.
        draws: Whether a sample that is not augmented depends on the global generators, too,
        exact: and on nothing else that is random.
    """

    where: str
    labels: Tensor | None = None
    augments: bool = False
    augmentation: str = "none"
    skip: bool = False
    draws: bool = False
    exact: bool = True
    samples: ClassVar[Any] = Split  # a class that makes samples in memory of stacked inputs and targets

    stack: ClassVar[Any] = staticmethod(stacked)  # makes one thing of the inputs, or targets, of many samples

    @abstractmethod
    def __len__(self) -> int:
        """How many there are."""

    @abstractmethod
    def name(self, number: int) -> str:
        """What a sample is called, for errors and reports."""

    @abstractmethod
    def read(self, number: int, train: bool) -> tuple[Tensor, Any]:
        """A sample: its input in bytes, its target.

        Args:
            number: Of the sample.
            train: As training sees it: whatever is random is drawn from the global generators.

        Raises:
            Damaged: If it cannot be read.
            ValueError: If it is not what it must be.
        """

    @abstractmethod
    def described(self, numbers: Tensor) -> Iterator[bytes]:
        """What tells these samples from others, without reading them; for the fingerprint."""

    @property
    @abstractmethod
    def sample_bytes(self) -> int:
        """Bytes of one sample in memory."""


def digest_of(items: Items, numbers: Tensor) -> str:
    """A short hash of some samples: what is known of each, and the contents of at most `LOOKED_AT`."""
    digest = hashlib.sha256(str(len(numbers)).encode())
    for part in items.described(numbers):
        digest.update(part)
    return digest.hexdigest()[:16]


def some(numbers: Tensor, most: int = LOOKED_AT) -> list[int]:
    """At most so many of them, evenly spread."""
    places = np.linspace(0, len(numbers) - 1, num=min(len(numbers), most)).astype(np.int64)
    found: list[int] = numbers[torch.from_numpy(places)].tolist()
    return found


@dataclass(frozen=True)
class Streaming:
    """When data are streamed, and how.

    Attributes:
        memory: What takes more bytes in memory is streamed; infinite: nothing is.
        workers: Processes that load, or "auto".
        skip: Whether samples that cannot be read are left out.
    """

    memory: float = math.inf
    workers: int | str = "auto"
    skip: bool = False

    def wanted(self, num_bytes: int) -> bool:
        """Whether data that take so much are streamed."""
        return num_bytes > self.memory


@dataclass(frozen=True, eq=False)
class Selection:
    """Some of the samples of `items`, by their numbers: a split that is not in memory.

    Attributes:
        items: Where they are read.
        numbers: [N] int64.
    """

    items: Items
    numbers: Tensor

    def __len__(self) -> int:
        return len(self.numbers)

    def subset(self, index: Tensor | slice) -> Selection:
        """Some of these."""
        return Selection(self.items, self.numbers[index])

    @property
    def labels(self) -> Tensor:
        """[N] class numbers."""
        assert self.items.labels is not None
        return self.items.labels[self.numbers]

    def few(self, count: int) -> Any:
        """Samples in memory: at most so many, evenly spread, as they are.

        Raises:
            Damaged: If one cannot be read; where such are left out, if none can.
        """
        found, last = [], Damaged(f"{self.items.where}: holds nothing that can be read")
        for number in some(self.numbers, count):
            try:
                found.append(self.items.read(number, train=False))
            except Damaged as error:
                if not self.items.skip:
                    raise
                last = error
        if not found:
            if count >= len(self):
                raise last
            return self.few(min(len(self), 8 * count))
        return self.items.samples(*map(self.items.stack, zip(*found, strict=True)))

    @property
    def fingerprint(self) -> str:
        """A short hash; see `digest_of`."""
        return digest_of(self.items, self.numbers)
