"""Data sets inside a `DataLoader`: the loader's batches are not read, but its data set, in its own order."""

from __future__ import annotations

from typing import Any

from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    default_collate,
)

from autoprune.randomness import GlobalStream
from objectives.plugins import running

WHOLE = (RandomSampler, SequentialSampler, DistributedSampler)  # samplers that leave nothing out


def is_data_set(thing: Any) -> bool:
    """Whether this is one data set or loader, and not several parts."""
    return isinstance(thing, (DataLoader, Dataset))


def data_set_of(where: str, thing: Any) -> Any:
    """The data set of a loader, or the part of it that its sampler draws; anything else as it is.

    Raises:
        ValueError: If it can only be iterated, or the loader does more than draw items.
    """
    found = thing.dataset if isinstance(thing, DataLoader) else thing
    if isinstance(found, IterableDataset) or (isinstance(found, Dataset) and not hasattr(found, "__len__")):
        raise ValueError(f"{where}: {type(found).__name__} can only be iterated, but images are kept in memory and "
                         "drawn by number; give a data set with a length and items (image, class number)")  # fmt: skip
    if isinstance(thing, DataLoader):
        if thing.collate_fn is not default_collate:
            raise ValueError(f"{where}: the DataLoader's own collate_fn would not be applied, as its data set is read "
                             "item by item; give a data set with items (image, class number)")  # fmt: skip
        if isinstance(thing.sampler, SubsetRandomSampler):
            return Subset(found, sorted(thing.sampler.indices))
        if not isinstance(thing.sampler, WHOLE):
            name = type(thing.sampler).__name__
            raise ValueError(f"{where}: the DataLoader's sampler {name} would not be applied, as each item of its data "
                             "set is read once; give a data set of the images that count")  # fmt: skip
    return found


def class_names(thing: Any) -> Any:
    """The names of the classes that a data set, or what it is a part of, brings; None: none."""
    part = thing
    while part is not None:
        if (names := getattr(part, "classes", None)) is not None:
            return names
        part = getattr(part, "dataset", None)  # of a DataLoader, of a Subset
    return None


def check_length(where: str, thing: Any) -> None:
    """Check that the map-style data set of a loader holds as many items as it says, by its last one.

    Raises:
        ValueError: If not.
    """
    found = thing.dataset if isinstance(thing, DataLoader) else None
    if found is None or isinstance(found, IterableDataset) or not hasattr(found, "__len__"):
        return
    with running(where, "when asked for its length"):
        count = len(found)
    if not count:  # as whoever reads it will say
        return
    try:
        with GlobalStream(0).drawing():
            found[count - 1]
    except IndexError as error:
        raise ValueError(f"{where}: its data set says that it has {count} items, but has no item {count - 1} "
                         "(IndexError); give it the length of what it holds") from error  # fmt: skip
    except Exception:  # whoever reads it will say so
        return
