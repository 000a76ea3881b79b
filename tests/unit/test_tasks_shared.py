"""A user's loader that several processes share: each reads its own samples, and together they see what one would."""

import multiprocessing as mp
import os
import random

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, get_worker_info

from autoprune.tasks import Share, Task
from autoprune.training.parallel import Processes


class Random(Dataset):
    """27 samples, whose transforms draw from every generator there is; told which were read."""

    factor = 1.0

    def __init__(self, count=27):
        self.count, self.reads = count, []

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        self.reads.append(i)
        drawn = random.random() + np.random.rand() + float(torch.rand(()))  # noqa: NPY002
        return torch.tensor([float(i), drawn * self.factor]), i % 3


def training(**settings):
    data = settings.pop("data", None) or Random()
    if seed := settings.pop("own_seed", None):
        settings["generator"] = torch.Generator().manual_seed(seed)
    made = DataLoader(data, **{"batch_size": 8, "shuffle": True} | settings)
    return Task.of(train=made, val=made, loss=functional.cross_entropy).training(8, seed=5), data


def doubled(worker):
    get_worker_info().dataset.factor = 2.0


def agree(one, other):
    return all(map(torch.equal, one, other))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_workers": 1, "worker_init_fn": doubled, "persistent_workers": True},
        {"drop_last": True},
        {"own_seed": 3},
    ],
)
def test_each_reads_its_part_of_the_batches_that_one_process_sees(settings):
    whole = list(training(**settings)[0].between(0, 7))  # two epochs of four batches, or of three
    assert not agree(whole[0], whole[4])
    reads = []
    for rank in range(4):
        found, data = training(**settings)
        assert found._can_share(0, Share(rank, 4))
        data.reads.clear()
        parts = [portion.own() for portion in found._read_between(0, 7, Share(rank, 4))]
        reads.append(len(data.reads))
        for part, (x, y) in zip(parts, whole, strict=True):
            first, last = Share(rank, 4).ends(len(y))
            assert part is None if first == last else agree(part, (x[first:last], y[first:last]))
    if not settings:
        assert reads == [2 * 6 + 1] * 4  # of three samples one is read by each
    one = list(training(**settings)[0].portions(0, 7, Share(1, 4)))
    assert agree(one[0].own(), [t[2:4] for t in whole[0]])


def test_a_resumed_training_reads_nothing_of_what_came_before():
    whole = list(training()[0].between(0, 4))
    found, data = training()
    data.reads.clear()
    assert all(map(agree, found.between(2, 4), whole[2:]))
    assert len(data.reads) == 11


def mixed(samples):
    """Two of a batch, as torchvision's recipes do it."""
    x, y = torch.utils.data.default_collate(samples)
    return x.lerp(x.roll(1, 0), float(torch.rand(()))), y


class ByProcess(Random):
    """Samples that say who read them."""

    def __getitem__(self, i):
        return super().__getitem__(i)[0], os.getpid()


@pytest.mark.parametrize("stay", [False, True])
def test_persistent_workers_read_all_epochs_of_a_training_and_end_with_it(stay):
    found, _ = training(data=ByProcess(), num_workers=1, persistent_workers=stay)
    batches = list(found.between(2, 12))
    readers = list(dict.fromkeys(int(y[0]) for _, y in batches))
    assert len(readers) == (1 if stay else 3)
    assert not {process.pid for process in mp.active_children()} & set(readers)
    resumed = list(training(data=ByProcess(), num_workers=1, persistent_workers=stay)[0].between(6, 12))
    assert all(torch.equal(one, other) for (one, _), (other, _) in zip(batches[4:], resumed, strict=True))


class Batched(Dataset):
    """27 samples that are read many at a time only, and put together by the data set; told how many each time."""

    def __init__(self):
        self.reads = []

    def __len__(self):
        return 27

    def __getitems__(self, numbers):
        self.reads.append(len(numbers))
        return torch.tensor(numbers).float()[:, None], torch.tensor(numbers) % 3


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_data_set_that_reads_many_samples_at_a_time_does(wrapped):
    data = Batched()
    one, parts = (
        training(data=Subset(data, range(27)) if wrapped else data, collate_fn=lambda batch: batch)[0] for _ in range(2)
    )
    data.reads.clear()
    whole = list(one.between(0, 5))
    assert data.reads == [8, 8, 8, 3, 8]
    data.reads.clear()
    for (x, y), part in zip(whole, parts.portions(0, 5, Share(1, 2)), strict=True):
        assert agree(part.own(), (x[len(x) // 2 :], y[len(y) // 2 :]))
    assert data.reads == [4, 8, 4, 4, 4, 2, 4]  # a part and the whole of the first one, to compare


@pytest.mark.parametrize("collate", [None, mixed])
def test_a_last_batch_of_one_sample_does_not_decide_whether_batches_are_shared(collate):
    """Of 25 samples the fourth batch has one: one process has nothing of it, and to the other nothing shows."""
    for rank in range(2):
        found, _ = training(data=Random(25), collate_fn=collate)
        assert found._can_share(3, Share(rank, 2)) == (collate is None)


class Own(DataLoader):
    """Whose batches are made in ways of its own."""


@pytest.mark.parametrize(
    "settings", [{"collate_fn": mixed}, {"data": TensorDataset(torch.rand(27, 2), torch.zeros(27))}]
)
def test_where_a_part_cannot_be_read_alone_the_whole_batch_is(settings):
    (found, _), (other, _) = training(**settings), training(**settings)
    if "data" in settings:
        own = Own(settings["data"], batch_size=8)
        found = other = Task.of(train=own, val=own, loss=functional.mse_loss).training(8, 5)
    whole, parts = other.between(0, 4), found.portions(0, 4, Share(1, 2))
    for (x, y), part in zip(whole, parts, strict=True):
        assert agree(part.own(), (x[len(x) // 2 :], y[len(x) // 2 :]))
        assert len(part.batch[0]) == len(x)


def test_samples_that_a_collate_function_leaves_out_do_not_count():
    """The batch is as many samples as all processes have of it together."""
    found = [training(collate_fn=sound, drop_last=True)[0] for _ in range(2)]
    counts = [[p.count for p in t.portions(0, 3, Share(rank, 2))] for rank, t in enumerate(found)]
    whole = [len(y) for _, y in training(collate_fn=sound, drop_last=True)[0].between(0, 3)]
    assert list(map(sum, zip(*counts, strict=True))) == whole
    assert 12 <= sum(whole) < 24


def sound(samples):
    """Without every third."""
    return torch.utils.data.default_collate([s for s in samples if s[1]])


class Boxed(Dataset):
    """Images of two sizes, with one box, two or three."""

    def __len__(self):
        return 12

    def __getitem__(self, i):
        size, boxes = 8 + 4 * (i % 2), 1 + i % 3
        return torch.rand(3, size, size), {"boxes": torch.full((boxes, 4), float(i)), "labels": torch.ones(boxes)}


@pytest.mark.parametrize("workers", [0, 1])
def test_samples_of_several_sizes_with_targets_of_their_own_are_shared(workers):
    columns = lambda samples: tuple(zip(*samples, strict=True))  # noqa: E731
    how = {"data": Boxed(), "batch_size": 5, "num_workers": workers, "collate_fn": columns}
    whole = training(**how)[0].between(0, 3)
    parts = [training(**how)[0].portions(0, 3, Share(rank, 2)) for rank in range(2)]
    for (images, targets), first, second in zip(whole, *parts, strict=True):
        together = [x for p in (first, second) for x in p.own()[0]], [y for p in (first, second) for y in p.own()[1]]
        assert all(map(torch.equal, together[0], images))
        assert all(torch.equal(a["boxes"], b["boxes"]) for a, b in zip(together[1], targets, strict=True))
        assert len(first.batch[0]) == len(images) // 2


def test_one_process_has_the_whole_of_a_batch():
    (portion,) = Processes().next(training()[0].portions(0, 1, Share()), 1, torch.device("cpu"))
    assert (portion.count, portion.whole) == (8, 8)
