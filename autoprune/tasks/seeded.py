"""A `DataLoader` of a user's in which what is random about a sample follows from its place, not from who reads it."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard, cast

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, StackDataset, Subset

from autoprune.randomness import reseed, seed_of
from autoprune.tasks.shares import Share
from autoprune.tasks.trees import leaves

Key = tuple[int, Any]  # the seed of a sample, and what the sampler calls it


def is_plain(loader: Any) -> TypeGuard[DataLoader[Any]]:
    """Whether it is a `DataLoader` as torch makes it, of batches that a sampler draws from a data set."""
    plain = type(loader) is DataLoader and not isinstance(loader.dataset, IterableDataset)
    return plain and loader.batch_sampler is not None


def seeded(loader: DataLoader[Any], seed: int, share: Share) -> DataLoader[Any]:
    """The same, of whose batches `Places.aim` says which are read; with persistent workers these serve all epochs.

    Args:
        loader: A plain one.
        seed: Of what its data set draws from the global generators.
        share: Which samples of each batch are read.
    """
    with warnings.catch_warnings():  # of more processes than cores it has been said
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        return DataLoader(
            _Seeded(loader.dataset), batch_sampler=Places(whole_batches(loader), seed, share),
            num_workers=loader.num_workers, collate_fn=loader.collate_fn, pin_memory=loader.pin_memory,
            timeout=loader.timeout, worker_init_fn=loader.worker_init_fn, generator=loader.generator,
            multiprocessing_context=loader.multiprocessing_context, prefetch_factor=loader.prefetch_factor,
            persistent_workers=loader.persistent_workers,
        )  # fmt: skip


def whole_batches(loader: DataLoader[Any]) -> Iterable[list[Any]]:
    """What the sampler of a plain loader draws."""
    return cast("Iterable[list[Any]]", loader.batch_sampler)


def stays(loader: Any) -> bool:
    """Whether it is one of `seeded`'s whose worker processes serve the next epoch, too."""
    return isinstance(getattr(loader, "batch_sampler", None), Places) and bool(loader.persistent_workers)


def let_go(loader: DataLoader[Any]) -> None:
    """End the worker processes that have stayed."""
    batches: Any = loader._iterator
    loader._iterator = None
    if batches is not None:
        batches._shutdown_workers()


@contextmanager
def untouched(loader: DataLoader[Any]) -> Iterator[None]:
    """Generators of its own are afterwards as they were: it is read in the block without having been read."""
    parts = (loader, loader.sampler, loader.batch_sampler)
    found = [g for g in (getattr(part, "generator", None) for part in parts) if isinstance(g, torch.Generator)]
    states = [generator.get_state() for generator in found]
    try:
        yield
    finally:
        for generator, state in zip(found, states, strict=True):
            generator.set_state(state)


class Places:
    """A batch sampler, to be aimed at some batches of an epoch; what comes before is not read.

    Args:
        batches: The sampler of the whole batches.
        seed: Of what the data set draws.
        share: Which samples of each batch are read; not those that other processes train on.

    Attributes:
        epoch: It.
        start: The number of its first batch.
        counts: By number, how many samples the whole batch has.
    """

    def __init__(self, batches: Iterable[list[Any]], seed: int, share: Share) -> None:
        self._batches, self._seed, self._share = batches, seed, share
        self.epoch, self.start, self.counts = 0, 0, list[int]()
        self._rest: list[list[Any]] = []

    def aim(self, epoch: int, start: int, end: int) -> None:
        """Draw all batches until `end` now: each process the same ones, whatever a loader or a data set draws then."""
        batches = [list(batch) for batch in itertools.islice(self._batches, end)]
        self.epoch, self.start, self.counts, self._rest = epoch, start, list(map(len, batches)), batches[start:]

    def __len__(self) -> int:
        return len(self._rest)

    def __iter__(self) -> Iterator[list[Key]]:
        for number, keys in enumerate(self._rest, self.start):
            places = self._share.places(len(keys))
            yield [(seed_of(self._seed, 7, self.epoch, number, at), keys[at]) for at in places]


class _Seeded(Dataset[Any]):
    """The items of a data set, each read with its own seed; to a `worker_init_fn` it is the data set.

    One that reads many at a time (`__getitems__`) still does, with the seed of the first.
    """

    def __init__(self, dataset: Any) -> None:
        vars(self)["_dataset"] = dataset

    def __getitem__(self, key: Key) -> Any:
        reseed(key[0])
        return self._dataset[key[1]]

    def _together(self, keys: list[Key]) -> Any:
        reseed(keys[0][0])
        return self._dataset.__getitems__([key for _, key in keys])

    def __getattr__(self, name: str) -> Any:
        if name == "__getitems__" and _reads_together(self._dataset):
            return self._together
        if name == "_dataset" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._dataset, name, value)


def _reads_together(dataset: Any) -> bool:
    """Whether it reads many samples at a time: not where torch's wrapper of others only offers it."""
    if isinstance(dataset, Subset):
        return _reads_together(dataset.dataset)
    if isinstance(dataset, StackDataset):
        parts: Any = dataset.datasets
        return any(map(_reads_together, parts.values() if isinstance(parts, dict) else parts))
    return callable(getattr(dataset, "__getitems__", None))


def first_batch(loader: Any) -> int:
    """The number of the first batch that a loader gives."""
    sampler = getattr(loader, "batch_sampler", None)
    return sampler.start if isinstance(sampler, Places) else 0


def equal(one: Any, other: Any) -> bool:
    """Whether two batches have the same tensors."""
    first, second = leaves(one), leaves(other)
    return len(first) == len(second) and all(map(torch.equal, first, second))
