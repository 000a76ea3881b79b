"""A `DataLoader` of a user's in which what is random about a sample follows from its place, not from who reads it."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from autoprune.randomness import reseed, seed_of
from autoprune.tasks.shares import Share
from autoprune.tasks.trees import leaves

Key = tuple[int, Any]  # the seed of a sample, and what the sampler calls it


def is_plain(loader: Any) -> TypeGuard[DataLoader[Any]]:
    """Whether it is a `DataLoader` as torch makes it, of batches that a sampler draws from a data set."""
    plain = type(loader) is DataLoader and not isinstance(loader.dataset, IterableDataset)
    return plain and loader.batch_sampler is not None


def seeded(loader: DataLoader[Any], seed: int, epoch: int, start: int, end: int, share: Share) -> DataLoader[Any]:
    """Some batches of an epoch; what comes before is not read, nor what other processes train on.

    Args:
        loader: A plain one.
        seed: Of what its data set draws from the global generators.
        epoch: Likewise.
        start: The first batch,
        end: and the one after the last.
        share: Which samples of each are read.
    """
    with warnings.catch_warnings():  # of more processes than cores it has been said
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        return DataLoader(
            _Seeded(loader.dataset), batch_sampler=Places(loader.batch_sampler, seed, epoch, start, end, share),
            num_workers=loader.num_workers, collate_fn=loader.collate_fn, pin_memory=loader.pin_memory,
            timeout=loader.timeout, worker_init_fn=loader.worker_init_fn, generator=loader.generator,
            multiprocessing_context=loader.multiprocessing_context, prefetch_factor=loader.prefetch_factor,
        )  # fmt: skip


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
    """A batch sampler. It draws all batches first: each process the same ones, whatever the data set draws meanwhile.

    Attributes:
        start: The number of its first batch.
        counts: By number, how many samples the whole batch has.
    """

    def __init__(self, batches: Any, seed: int, epoch: int, start: int, end: int, share: Share) -> None:
        self._batches, self._key, self._share = batches, (seed, 7, epoch), share
        self.start, self._end = start, end
        self.counts: dict[int, int] = {}

    def __len__(self) -> int:
        return self._end - self.start

    def __iter__(self) -> Iterator[list[Key]]:
        for number, batch in enumerate(list(itertools.islice(self._batches, self._end))):
            if number >= self.start:
                keys = list(batch)
                self.counts[number] = len(keys)
                yield [(seed_of(*self._key, number, at), keys[at]) for at in self._share.places(len(keys))]


class _Seeded(Dataset[Any]):
    """The items of a data set, each read with its own seed; to a `worker_init_fn` it is the data set."""

    def __init__(self, dataset: Any) -> None:
        vars(self)["_dataset"] = dataset

    def __getitem__(self, key: Key) -> Any:
        reseed(key[0])
        return self._dataset[key[1]]

    def __getattr__(self, name: str) -> Any:
        if name in ("_dataset", "__getitems__") or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._dataset, name, value)


def first_batch(loader: Any) -> int:
    """The number of the first batch that a loader gives."""
    sampler = getattr(loader, "batch_sampler", None)
    return sampler.start if isinstance(sampler, Places) else 0


def equal(one: Any, other: Any) -> bool:
    """Whether two batches have the same tensors."""
    first, second = leaves(one), leaves(other)
    return len(first) == len(second) and all(map(torch.equal, first, second))
