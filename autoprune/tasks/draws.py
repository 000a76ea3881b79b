"""What the engine reads of a task: `Draw` (some samples, in a fixed order), `Training` (the batches of each step)."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from autoprune.compute import Compute
from autoprune.data.loading import deaths_in_order, has_died
from autoprune.randomness import GlobalStream
from autoprune.tasks.trees import joined, not_finite, num_samples, part_of, placed, split
from objectives.plugins import running

MOST_BATCHES = 100_000  # of an epoch whose length nobody says: what gives more has no end
Read = Callable[[int], Iterable[Any]]  # epoch -> batches


class Draw(ABC):
    """Some samples of a split, the same ones in the same order each time, on the device."""

    @abstractmethod
    def __len__(self) -> int:
        """How many samples."""

    @abstractmethod
    def batches(self, size: int, parts: int = 1) -> Iterator[Any]:
        """All of them.

        Args:
            size: Samples a batch; a loader's batches are as it makes them.
            parts: Each of these batches goes in so many, where memory is short.
        """

    def evenly(self, size: int, parts: int = 1) -> Iterator[Any]:
        """The same in batches that weigh about the same in a plain average, none of a single sample."""
        return self.batches(even_size(len(self), max(1, size // parts)))

    @abstractmethod
    def whole(self, most: int) -> Any:
        """At most so many samples as one batch."""


class Training(ABC):
    """The batches of a training: step t sees the same ones whenever it is run.

    Attributes:
        size: Samples a step.
        per_epoch: Steps an epoch.
    """

    size: int
    per_epoch: int

    @abstractmethod
    def between(self, start: int, end: int) -> Iterator[Any]:
        """Those of the steps `start` to `end`, on the device."""


def even_size(count: int, size: int) -> int:
    """Samples of even batches of about `size`, so that no batch has a single one: it may have no statistics."""
    size = math.ceil(count / max(1, round(count / size)))
    while size > 1 and count % size == 1:
        size += 1
    return size


class LoaderDraw(Draw):
    """The first samples that a loader gives, kept in memory as they were read.

    Args:
        read: Epoch -> batches.
        where: What is read, for errors.
        count: How many samples, if there are so many.
        compute: Where to.
        seed: Of what the loader draws.
    """

    def __init__(self, read: Read, where: str, count: int, compute: Compute, seed: int) -> None:
        self._compute, self._kept, found = compute, list[Any](), 0
        for batch in reading(read, where, 0, seed):
            size = samples_in(batch, where)
            if not_finite(batch):
                raise ValueError(f"{where}: batch {len(self._kept)} holds NaN or infinity; find out where it comes "
                                 "from, or leave such samples out")  # fmt: skip
            self._kept.append(part_of(batch, 0, count - found) if found + size > count else batch)
            found = min(count, found + size)
            if found >= count:
                break
        if not found:
            raise ValueError(f"{where}: gives no batch; check its data set, and that it can be iterated again")
        self._count = found

    def __len__(self) -> int:
        return self._count

    def batches(self, size: int, parts: int = 1) -> Iterator[Any]:
        """See `Draw`."""
        for batch in self._kept:
            for part in split(batch, parts):
                yield placed(part, self._compute)

    def evenly(self, size: int, parts: int = 1) -> Iterator[Any]:
        """See `Draw`: the loader's own, without a last one of a single sample."""
        for batch in self.batches(size, parts):
            if len(self._kept) == 1 or num_samples(batch) > 1:
                yield batch

    def whole(self, most: int) -> Any:
        """See `Draw`; as many of the first batches as fit together."""
        return placed(joined(self._kept, most), self._compute)


class LoaderTraining(Training):
    """A training from a loader; what it draws from the global generators is seeded by (seed, epoch).

    Args:
        read: Epoch -> batches.
        where: What is read, for errors.
        compute: Where to.
        seed: Of what the loader draws.
        size: Samples of its first batch.
        per_epoch: Batches an epoch.
    """

    def __init__(self, read: Read, where: str, compute: Compute, seed: int, size: int, per_epoch: int) -> None:
        self._read, self._where, self._compute, self._seed = read, where, compute, seed
        self.size, self.per_epoch = size, per_epoch

    def between(self, start: int, end: int) -> Iterator[Any]:
        """See `Training`; a loader is read from the beginning of an epoch, so what comes before is passed by."""
        for epoch in range(start // self.per_epoch, math.ceil(end / self.per_epoch)):
            first = max(0, start - epoch * self.per_epoch)
            last = min(self.per_epoch, end - epoch * self.per_epoch)
            count = 0
            for batch in itertools.islice(reading(self._read, self._where, epoch, self._seed), last):
                count += 1
                if count > first:
                    yield placed(batch, self._compute)
            if count < last:
                before = "in the first one" if epoch else "by its own length"
                raise ValueError(f"{self._where}: gives {count} batches in epoch {epoch}, but {self.per_epoch} "
                                 f"{before}; each epoch must have as many")  # fmt: skip


def reading(read: Read, where: str, epoch: int, seed: int) -> Iterator[Any]:
    """The batches of an epoch, whatever a loader draws from the global generators seeded.

    Raises:
        PluginError: If the loader fails.
    """
    stream = GlobalStream(seed, 3, epoch)
    with running(where, "when asked for its batches"), stream.drawing(), deaths_in_order():
        batches = iter(read(epoch))
    try:
        for number in itertools.count():
            try:
                with stream.drawing():
                    batch = next(batches)
            except StopIteration:
                return
            except (KeyboardInterrupt, GeneratorExit):
                raise
            except BaseException as error:  # a worker process that died, a transform of the user's
                if has_died(error):
                    raise ValueError(f"{where}: a worker process of the loader was killed at batch {number} of epoch "
                                     f"{epoch}; the system does so when memory runs out: give the loader fewer "
                                     "num_workers or a smaller batch") from error  # fmt: skip
                with running(where, f"when asked for batch {number} of epoch {epoch}"):
                    raise error
            yield batch
    finally:
        close = getattr(batches, "close", None) or getattr(batches, "_shutdown_workers", None)
        with suppress(Exception):
            if callable(close):
                close()


def samples_in(batch: Any, where: str) -> int:
    """How many samples a batch holds.

    Raises:
        ValueError: If nothing in it says so.
    """
    if count := num_samples(batch):
        return count
    raise ValueError(f"{where}: a batch must be (inputs, targets), a dictionary or inputs alone, tensors with the "
                     "samples along axis 0 or a list of samples, got "
                     f"{type(batch).__name__} {str(batch)[:60]!r}")  # fmt: skip


def length_of(batches: Any, read: Read, where: str, seed: int) -> int:
    """How many batches an epoch has: said, else counted.

    Raises:
        ValueError: If there are too many to count: it may have no end.
    """
    with suppress(TypeError, NotImplementedError, AttributeError):
        return len(batches)
    with running(where, "when its batches were counted"), GlobalStream(seed, 3, 0).drawing():
        count = sum(1 for _ in itertools.islice(read(0), MOST_BATCHES + 1))
    if count > MOST_BATCHES:
        raise ValueError(f"{where}: gives more than {MOST_BATCHES:,} batches and has no length, so an epoch may have "
                         "no end; give it a __len__ and let it stop there")  # fmt: skip
    return count


def first_of(read: Read, where: str, seed: int) -> Any:
    """The first batch, if it can be read again and again.

    Raises:
        ValueError: If there is none, or the second reading gives none.
    """
    found = [next(reading(read, where, 0, seed), None) for _ in range(2)]
    if found[0] is None:
        raise ValueError(f"{where}: is empty, it gives no batch; check its data set and its sampler")
    if found[1] is None:
        raise ValueError(f"{where}: can be iterated once only, but each epoch reads it anew; give a list, a DataLoader "
                         "or an object whose __iter__ begins at the start")  # fmt: skip
    return found[0]
