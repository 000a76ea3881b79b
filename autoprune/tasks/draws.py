"""What the engine reads of a task: `Draw` (some samples, in a fixed order), `Training` (the batches of each step)."""

from __future__ import annotations

import itertools
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, default_collate

from autoprune.compute import Compute
from autoprune.data.loading import deaths_in_order, has_died
from autoprune.randomness import GlobalStream
from autoprune.tasks.given import once
from autoprune.tasks.seeded import Places, equal, first_batch, is_plain, let_go, seeded, stays, untouched, whole_batches
from autoprune.tasks.shares import Portion, Share
from autoprune.tasks.trees import (
    TARGETS,
    divisible,
    inputs_of,
    joined,
    listed,
    not_finite,
    num_samples,
    part_of,
    placed,
    split,
    targets_of,
    tuples,
)
from objectives.plugins import running

MOST_BATCHES = 100_000  # of an epoch whose length nobody says: what gives more has no end
MOST_SECONDS = 600.0  # that are spent on counting them
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

    def portions(self, start: int, end: int, share: Share) -> Iterator[Portion]:
        """What one of several processes has of the same batches; where a part cannot be read alone, it reads them.

        Raises:
            ValueError: If a batch cannot be shared.
        """
        return (Portion.of(batch, share) for batch in self.between(start, end))


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
            self._kept.append(batch)
            found += size
            if found >= count:
                break
        if not found:
            raise ValueError(f"{where}: gives no batch; check its data set, and that it can be iterated again")
        self._whole = not all(map(divisible, self._kept))  # even those whose targets are by chance as many as samples
        if found > count and not self._whole:
            self._kept[-1], found = part_of(self._kept[-1], 0, size - (found - count)), count
        self._count = found

    def __len__(self) -> int:
        return self._count

    def batches(self, size: int, parts: int = 1) -> Iterator[Any]:
        """See `Draw`."""
        for batch in self._kept:
            for part in split(batch, 1 if self._whole else parts):
                yield placed(part, self._compute)

    def evenly(self, size: int, parts: int = 1) -> Iterator[Any]:
        """See `Draw`: the loader's own, without a last one of a single sample."""
        for batch in self.batches(size, parts):
            if len(self._kept) == 1 or num_samples(batch) > 1:
                yield batch

    def whole(self, most: int) -> Any:
        """See `Draw`; as many of the first batches as fit together."""
        return placed(self._kept[0] if self._whole else joined(self._kept, most), self._compute)


class LoaderTraining(Training):
    """A training from a loader; what it draws from the global generators is seeded by (seed, epoch).

    Of a plain `DataLoader` each sample has a seed of its own (see `seeded`): a process reads its own part of a batch,
    and a resumed training nothing of what came before.

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
        """See `Training`; of what is no plain loader the beginning of an epoch is read and passed by."""
        return (portion.batch for portion in self._read_between(start, end, Share()))

    def portions(self, start: int, end: int, share: Share) -> Iterator[Portion]:
        """See `Training`; if the first part that is read alone is not that of the whole batch, whole ones are read."""
        if share.size > 1 and start < end and self._can_share(start, share):
            return self._read_between(start, end, share)
        return super().portions(start, end, share)

    def _can_share(self, step: int, share: Share) -> bool:
        """Not where `collate_fn` draws, or makes something of all samples together.

        All processes try the same: the part of the last one, which is never empty, of the epoch's largest batch. Of a
        last batch of very few samples the part of one may be none, or the whole.
        """
        epoch, share = step // self.per_epoch, replace(share, rank=share.size - 1)
        with suppress(ValueError):  # as whoever reads it will say
            with running(self._where, "when asked for its batches"), GlobalStream(self._seed, 3, epoch).drawing():
                loader = self._read(epoch)
                if not is_plain(loader):
                    return False
                with untouched(loader):
                    sizes = [len(list(batch)) for batch in itertools.islice(whole_batches(loader), self.per_epoch)]
            step = epoch * self.per_epoch + max(range(len(sizes)), key=sizes.__getitem__)
            with untouched(loader):
                own = next(self._read_between(step, step + 1, share)).own()
            with untouched(loader):
                whole = next(self.between(step, step + 1))
            return equal(own, Portion.of(whole, share).own())
        return False

    def _read_between(self, start: int, end: int, share: Share) -> Iterator[Portion]:
        source: Any = None
        found: DataLoader[Any] | None = None

        def some(epoch: int) -> Iterable[Any]:
            nonlocal source, found
            loader = self._read(epoch)
            if found is not None and loader is not source:
                let_go(found)
                found = None
            if not is_plain(loader):
                return loader
            source, found = loader, found or seeded(loader, self._seed, share)
            cast("Places", found.batch_sampler).aim(epoch, first, last)
            return found

        try:
            for epoch in range(start // self.per_epoch, math.ceil(end / self.per_epoch)):
                first = max(0, start - epoch * self.per_epoch)
                last = min(self.per_epoch, end - epoch * self.per_epoch)
                count = 0
                for batch in itertools.islice(reading(some, self._where, epoch, self._seed), last):
                    if found is not None:
                        places = cast("Places", found.batch_sampler)
                        yield Portion.read(placed(batch, self._compute), share, places.counts[first + count])
                    elif count >= first:
                        yield Portion.of(placed(batch, self._compute), share)
                    count += 1
                count += 0 if found is None else first
                if count < last:
                    before = "in the first one" if epoch else "by its own length"
                    raise ValueError(f"{self._where}: gives {count} batches in epoch {epoch}, but {self.per_epoch} "
                                     f"{before}; each epoch must have as many")  # fmt: skip
        finally:
            if found is not None:
                let_go(found)


def reading(read: Read, where: str, epoch: int, seed: int) -> Iterator[Any]:
    """The batches of an epoch, whatever a loader draws from the global generators seeded; no more than it says.

    Raises:
        PluginError: If the loader fails.
    """
    stream = GlobalStream(seed, 3, epoch)
    with running(where, "when asked for its batches"), stream.drawing(), deaths_in_order():
        found = read(epoch)
        batches, most = iter(found), _most(found)
        if isinstance(found, DataLoader) and not stays(found):  # a persistent one would be handed out again, closed
            found._iterator = None
    own = isinstance(found, DataLoader) and found.collate_fn is default_collate
    try:
        for number in itertools.count() if most is None else range(most):
            try:
                with stream.drawing():
                    batch = next(batches)
            except StopIteration:
                return
            except (KeyboardInterrupt, GeneratorExit):
                raise
            except BaseException as error:  # a worker process that died, a transform of the user's
                number += first_batch(found)
                if has_died(error):
                    raise ValueError(f"{where}: a worker process of the loader was killed at batch {number} of epoch "
                                     f"{epoch}; the system does so when memory runs out: give the loader fewer "
                                     "num_workers or a smaller batch") from error  # fmt: skip
                with running(where, f"when asked for batch {number} of epoch {epoch}"):
                    raise error
            yield tuples(batch) if own else listed(batch)
    finally:
        close = getattr(batches, "close", None) or getattr(batches, "_shutdown_workers", None)
        with suppress(Exception):
            if callable(close) and not stays(found):
                close()


def _most(loader: Any) -> int | None:
    """How many batches are read at most; None: no length says it."""
    stream = isinstance(loader, DataLoader) and isinstance(loader.dataset, IterableDataset)
    said = said_length(loader)
    return said and said + (loader.num_workers if stream else 0)  # each process may bring a partial one


def samples_in(batch: Any, where: str) -> int:
    """How many samples a batch holds.

    Raises:
        ValueError: If nothing in it says so, or its parts are in another order than (inputs, targets).
    """
    if first := next((name for name in getattr(batch, "_fields", ())[:1] if name in TARGETS), ""):
        raise ValueError(f"{where}: the first part of a {type(batch).__name__} is called '{first}', but a batch is "
                         "(inputs, targets); let collate_fn exchange them, or make dictionaries")  # fmt: skip
    if count := num_samples(batch):
        inputs, targets = inputs_of(batch), targets_of(batch)
        if isinstance(inputs, list) and isinstance(targets, Tensor) and targets.dim() and len(targets) != count:
            if all(isinstance(t, Tensor) and t.dim() and len(t) == len(targets) for t in inputs):
                raise ValueError(f"{where}: the inputs are a list of {count} tensors, and a list has an item for each "
                                 f"sample, but there are {len(targets)} targets; several inputs are a tuple: let "
                                 "collate_fn give ((a, b), targets)")  # fmt: skip
        return count
    raise ValueError(f"{where}: a batch must be (inputs, targets), a dictionary or inputs alone, tensors with the "
                     "samples along axis 0 or a list of samples, got "
                     f"{type(batch).__name__} {str(batch)[:60]!r}")  # fmt: skip


def said_length(loader: Any) -> int | None:
    """How many batches it says that an epoch has; None: it does not."""
    with suppress(TypeError, NotImplementedError, AttributeError):
        return len(loader)
    return None


def counted_length(read: Read, where: str, seed: int) -> int:
    """How many batches an epoch has that does not say it.

    Raises:
        ValueError: If there are too many to count: it may have no end.
    """
    begun, count = time.monotonic(), 0
    doing = "when its batches were counted"
    with running(where, doing), GlobalStream(seed, 3, 0).drawing(), deaths_in_order():
        for _ in read(0):
            count += 1
            if count > MOST_BATCHES or time.monotonic() - begun > MOST_SECONDS:
                break
        else:
            return count
    raise ValueError(f"{where}: has no length, and has given {count:,} batches without coming to an end; give it a "
                     "__len__, how many batches an epoch is (of an IterableDataset: how many samples)")  # fmt: skip


def first_of(read: Read, where: str, seed: int) -> Any:
    """The first batch, if it can be read again and again.

    Raises:
        ValueError: If there is none, or the second reading gives none.
    """
    with running(where, "when asked for its batches"), GlobalStream(seed, 3, 0).drawing():
        found = read(0)
        same = not isinstance(found, DataLoader) and iter(found) is iter(read(0))
    if same:
        raise once(where, found)
    first = [list(itertools.islice(reading(read, where, 0, seed), 1)) for _ in range(2)]
    if not first[0]:
        raise ValueError(f"{where}: is empty, it gives no batch; check its data set and its sampler")
    if not first[1]:
        raise once(where, found)
    return first[0][0]
