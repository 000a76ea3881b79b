"""Samples that are read when they are wanted: those that score and calibrate are kept, training reads ahead."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoprune.data import Selection
from autoprune.data.loading import Chunks, Loaded, Shuffled, loaded, processes
from autoprune.data.memory import free
from autoprune.randomness import seed_of
from autoprune.tasks.draws import Draw, Training
from autoprune.tasks.shares import Portion, Share

AT_ONCE = 32  # samples that a worker process reads in one go, where they are gathered
FEW = 64  # samples for which no worker process is started


class Streamed:
    """A split that is not in memory.

    Args:
        selection: Its samples.

    Attributes:
        workers: Processes that load, or "auto".
        device: Where samples go; those that are kept stay in the memory of the machine.
        skipped: Names of damaged samples that were left out, by this process.
    """

    def __init__(self, selection: Selection) -> None:
        self.selection, self.items = selection, selection.items
        self.workers: int | str = "auto"
        self.device = torch.device("cpu")
        self.skipped: set[str] = set()
        self._kept: dict[int, _Kept] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without what was read: another process reads what it needs."""
        return {**vars(self), "_kept": {}, "skipped": set()}

    def _with(self, **other: Any) -> Streamed:
        """The same in other ways; what any of them has read or leaves out, all know."""
        made = object.__new__(type(self))
        vars(made).update({**vars(self), **other})
        return made

    def __len__(self) -> int:
        return len(self.selection)

    def __getitem__(self, index: Tensor | slice) -> Any:
        """Samples in memory."""
        return self.items.samples(*self._gathered(self.selection.subset(index).numbers)).to(self.device)

    @property
    def labels(self) -> Tensor:
        """[N] class numbers."""
        return self.selection.labels

    @property
    def fingerprint(self) -> str:
        """See `Selection`."""
        return self.selection.fingerprint

    def subset(self, index: Tensor | slice) -> Streamed:
        """Some of these, which are not read now."""
        return self._with(selection=self.selection.subset(index), _kept={})

    def to(self, device: torch.device) -> Streamed:
        """The same, of which a device gets what it is to work on."""
        return self._with(device=device)

    def loading(self, workers: int | str) -> Streamed:
        """The same with so many processes."""
        return self._with(workers=workers)

    def num_bytes(self, count: int) -> int:
        """What so many samples take in memory."""
        return min(count, len(self)) * self.items.sample_bytes

    def order(self, seed: int) -> Tensor:
        """[N] numbers, drawn by the seed; any first ones have as many samples of each class as there are in all."""
        numbers = self.selection.numbers
        if self.items.labels is None:
            return numbers[torch.randperm(len(numbers), generator=torch.Generator().manual_seed(seed))]
        return numbers[torch.from_numpy(stratified(self.labels.numpy(), seed))]

    def sample(self, count: int, seed: int) -> Any:
        """The first samples of `order`, kept in memory."""
        kept = self._kept.setdefault(seed, _Kept(self.order(seed)))
        while kept.count < count and kept.taken < len(kept.order):
            new = kept.order[kept.taken : kept.taken + count - kept.count]
            kept.add(*self._gathered(new))
            kept.taken += len(new)
        return self.items.samples(kept.inputs[:count], kept.targets[:count]).to(self.device)

    def forget(self) -> None:
        """Let go of what was kept."""
        self._kept.clear()

    def _gathered(self, numbers: Tensor) -> tuple[Any, Any]:
        """Inputs and targets: tensors that are filled, so that nothing is held twice; or lists."""
        inputs, targets, filled = torch.empty(0), torch.empty(0), 0
        lists: tuple[list[Any], list[Any]] = [], []
        for found in self._read(Chunks(self.items, numbers, AT_ONCE), len(numbers)):
            if isinstance(found[0], list):
                for kept, new in zip(lists, found, strict=True):
                    kept += new
                continue
            if not filled:
                inputs, targets = (torch.empty((len(numbers), *t.shape[1:]), dtype=t.dtype) for t in found)
            end = filled + len(found[0])
            inputs[filled:end], targets[filled:end] = found
            filled = end
        return lists if lists[0] else (inputs[:filled], targets[:filled])

    def chunks(self, numbers: Tensor, size: int) -> Iterator[Any]:
        """Samples, so many at a time, one after the other."""
        for found in self._read(Chunks(self.items, numbers, size), len(numbers)):
            yield self.items.samples(*found).to(self.device)

    def _read(self, chunks: Chunks, count: int) -> Iterator[tuple[Any, Any]]:
        workers = processes(self.workers) if count > FEW else 0
        for found in loaded(self.items.where, chunks, range(len(chunks)), workers, self.device.type == "cuda"):
            if self.note(found).inputs is not None:
                yield found.inputs, found.targets

    def note(self, found: Loaded) -> Loaded:
        """Remember what was left out."""
        self.skipped.update(found.skipped)
        return found


class _Kept:
    """Samples that were read: the first ones of an order."""

    def __init__(self, order: Tensor) -> None:
        self.order, self.taken = order, 0
        self.inputs: Any = []
        self.targets: Any = []

    @property
    def count(self) -> int:
        return len(self.targets)

    def add(self, inputs: Any, targets: Any) -> None:
        if self.count and isinstance(inputs, Tensor):
            inputs, targets = torch.cat([self.inputs, inputs]), torch.cat([self.targets, targets])
        elif self.count:
            inputs, targets = self.inputs + inputs, self.targets + targets
        self.inputs, self.targets = inputs, targets


class StreamedDraw(Draw):
    """Samples that are read each time, because there are too many to be kept.

    Args:
        task: That prepares them.
        part: Of the task.
        numbers: Which ones.
    """

    def __init__(self, task: Any, part: Streamed, numbers: Tensor) -> None:
        self._task, self._part, self._numbers = copy.copy(task), part, numbers
        self._task.parts = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def batches(self, size: int, parts: int = 1) -> Iterator[Any]:
        """See `Draw`."""
        for samples in self._part.chunks(self._numbers, max(1, size // parts)):
            yield self._task.prepared(samples)

    def whole(self, most: int) -> Any:
        """See `Draw`."""
        return next(StreamedDraw(self._task, self._part, self._numbers[:most]).batches(most))


class StreamedTraining(Training):
    """See `Shuffled`: order from (seed, epoch), transforms from (seed, epoch, number); nothing is stored."""

    def __init__(self, task: Any, part: Streamed, size: int, seed: int) -> None:
        self._task, self._part, self.size, self._seed = task, part, size, seed
        self.per_epoch = len(part) // size if size > 0 else 0

    def between(self, start: int, end: int) -> Iterator[Any]:
        """See `Training`; what comes before `start` is not read."""
        return self._read(start, end, None)

    def portions(self, start: int, end: int, share: Share) -> Iterator[Portion]:
        """See `Training`; whole batches are read where the task augments them as a whole."""
        if share.size == 1 or (self._task.augments and not self._part.items.augments):
            return super().portions(start, end, share)
        found = self._read(start, end, share.places(self.size))
        return (Portion.read(batch, share, self.size) for batch in found)

    def _read(self, start: int, end: int, places: Sequence[int] | None) -> Iterator[Any]:
        part, items = self._part, self._part.items
        batches = Shuffled(items, part.selection.numbers, self.size, self._seed, places)
        workers, pin = processes(part.workers), part.device.type == "cuda"
        for step, found in enumerate(loaded(items.where, batches, range(start, end), workers, pin), start):
            samples = items.samples(part.note(found).inputs, found.targets).to(part.device)
            if not items.augments:
                draws = torch.Generator().manual_seed(seed_of(self._seed, 1, step))
                samples = self._task.augmented(samples, draws)
            yield self._task.prepared(samples)


def drawn(task: Any, part: Streamed, count: int, seed: int) -> Any:
    """Samples in memory; a `StreamedDraw` of so many that half of what is free would not hold them."""
    available = free()
    if available is not None and part.num_bytes(count) > available // 2:
        return StreamedDraw(task, part, part.order(seed)[:count])
    return part.sample(count, seed)


def stratified(labels: np.ndarray[Any, Any], seed: int) -> np.ndarray[Any, Any]:
    """An order in which any first ones hold as many samples of each class as there are in all, but for one or so.

    Systematic sampling: the samples of a class, shuffled, lie evenly along 0..1, from an offset that is drawn.

    Args:
        labels: [N] class numbers.
        seed: Of the order.

    Returns:
        [N] positions.
    """
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, starts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    rank = np.arange(len(labels)) - np.repeat(starts, counts)
    places = (rank + np.repeat(rng.random(len(counts)), counts)) / np.repeat(counts, counts)
    return by_class[np.argsort(places, kind="stable")]
