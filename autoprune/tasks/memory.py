"""Tasks whose samples are drawn by number, by a seed, in batches of any size: from memory, or streamed."""

from __future__ import annotations

import copy
import hashlib
import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from autoprune.compute import Compute
from autoprune.data.loading import processes
from autoprune.randomness import seed_of
from autoprune.tasks.draws import Draw, Training
from autoprune.tasks.streamed import Streamed, StreamedDraw, StreamedTraining, drawn
from autoprune.tasks.task import CPU, Task
from autoprune.tasks.trees import leaves, mapped
from search_spaces.sending import sent


class Samples(Protocol):
    """Samples of one split, as they lie in memory."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> Any:
        """Those at an index tensor or in a slice."""

    def to(self, device: torch.device) -> Any:
        """The same on a device."""


class Columns:
    """Samples as (inputs, targets): tensors, or mappings of tensors, with the samples along axis 0.

    Args:
        inputs: What the network is called with.
        targets: What it should answer.
    """

    def __init__(self, inputs: Any, targets: Any) -> None:
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(leaves(self.inputs)[0])

    def __getitem__(self, index: Any) -> Columns:
        return Columns(mapped(lambda t: t[index], self.inputs), mapped(lambda t: t[index], self.targets))

    def subset(self, index: Any) -> Columns:
        """Some of these."""
        return self[index]

    def to(self, device: torch.device) -> Columns:
        """The same on a device."""
        return Columns(mapped(lambda t: sent(t, device), self.inputs), mapped(lambda t: sent(t, device), self.targets))


class MapStyle(Task):
    """A task whose samples are drawn by number.

    Attributes:
        parts: "train", "val" and perhaps "test": in memory, on the device once they are used, or `Streamed`.
        seed: Of the order of `batches`, which the engine does not use.
        left_out: Names of damaged samples that were left out when all were read.
    """

    parts: Mapping[str, Any]
    seed: int = 0
    batch_size: int = 128
    left_out: Sequence[str] = ()
    _fingerprint: str = ""

    @abstractmethod
    def prepared(self, samples: Any) -> Any:
        """A batch as the network takes it: floats, normalised ..."""

    def augmented(self, samples: Any, generator: torch.Generator) -> Any:
        """Samples as training sees them; the generator draws on the CPU."""
        return samples

    @property
    def augments(self) -> bool:
        """Whether `augmented` does anything."""
        return type(self).augmented is not MapStyle.augmented

    def batches(self, split: str, epoch: int = 0) -> Iterable[Any]:
        """For who wants to iterate; the engine draws."""
        if split == "train":
            training = self.training(min(self.batch_size, len(self.parts[split])), self.seed)
            return training.between(epoch * training.per_epoch, (epoch + 1) * training.per_epoch)
        part = self.parts["train" if split == "calibration" else split]
        if isinstance(part, Streamed):
            return StreamedDraw(self, part, part.selection.numbers).batches(self.batch_size)
        return self.draw(split, self.count(split), 0).batches(self.batch_size)

    def on(self, compute: Compute) -> MapStyle:
        """The same task for passes on a device: its samples go there when they are needed."""
        bound = copy.copy(self)
        bound.compute = compute
        streamed = {name: p.to(compute.device) for name, p in self.parts.items() if isinstance(p, Streamed)}
        bound.parts = {**self.parts, **streamed}
        return bound

    def without(self, *splits: str) -> MapStyle:
        """The same without the samples of some splits."""
        bare = copy.copy(self)
        bare._fingerprint = self.fingerprint
        bare.parts = {name: part for name, part in self.parts.items() if name not in splits}
        return bare

    def loading(self, workers: int | str) -> MapStyle:
        """See `Task`."""
        bound = copy.copy(self)
        streamed = {name: part.loading(workers) for name, part in self.parts.items() if isinstance(part, Streamed)}
        bound.parts = {**self.parts, **streamed}
        return bound

    def forget(self) -> None:
        """See `Task`."""
        for part in self.parts.values():
            if isinstance(part, Streamed):
                part.forget()

    def about(self) -> list[str]:
        """Whether samples are streamed."""
        return self.about_streams()

    def about_streams(self) -> list[str]:
        """In a sentence, where they are."""
        parts = [part for part in self.parts.values() if isinstance(part, Streamed)]
        if not parts:
            return []
        count, size = sum(map(len, parts)), sum(part.num_bytes(len(part)) for part in parts)
        amount = f"{size / 2**30:.1f} GiB" if size >= 2**29 else f"{size / 2**20:.1f} MiB"
        number = processes(parts[0].workers)
        workers = f"{number} process{'es' * (number != 1)}"
        return [
            f"streamed: {count:,} {self.sample}s would take {amount} in memory, more than "
            f"--data-memory gives; loaded by {workers}, and samples for scoring and calibration are kept"
        ]

    def skipped(self) -> list[str]:
        """See `Task`."""
        streamed = {name for part in self.parts.values() if isinstance(part, Streamed) for name in part.skipped}
        return sorted({*streamed, *self.left_out})

    def leave_out(self, names: Iterable[str]) -> None:
        """See `Task`."""
        if isinstance(train := self.parts.get("train"), Streamed):
            train.skipped.update(names)

    def has(self, split: str) -> bool:
        """Whether there are any."""
        return split in self.parts and len(self.parts[split]) > 0

    def count(self, split: str) -> int:
        """How many there are."""
        return len(self.parts["train" if split == "calibration" else split])

    def once(self, split: str, size: int) -> Iterator[Any]:
        """All of a split in its own order."""
        part = self.parts[split]
        if isinstance(part, Streamed):
            return StreamedDraw(self, part, part.selection.numbers).batches(size)
        return MemoryDraw(self, part).batches(size)

    def draw(self, split: str, count: int, seed: int) -> Draw:
        """`count` samples drawn by the seed without replacement (all, reordered, if there are fewer).

        Of those that are streamed each class has its share.
        """
        part = self.parts["train" if split == "calibration" else split]
        if isinstance(part, Streamed):
            found = drawn(self, part, count, seed)
            return found if isinstance(found, Draw) else MemoryDraw(self, found)
        order = torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))[:count]
        return MemoryDraw(self, part[order].to(self.compute.device))

    def training(self, size: int, seed: int) -> Training:
        """Batches of `size` samples; the last, partial one of an epoch is dropped."""
        part = self.parts["train"]
        return (
            StreamedTraining(self, part, size, seed) if isinstance(part, Streamed) else MemoryTraining(self, size, seed)
        )

    def example(self) -> Any:
        """The inputs of the first training sample."""
        bound = copy.copy(self)
        bound.compute = CPU
        return bound.prepared(self.parts["train"][:1].to(CPU.device))[0]

    @property
    def fingerprint(self) -> str:
        """A short hash of the samples of train and val; neither the path nor the test samples enter."""
        self._fingerprint = self._fingerprint or self.hashed()
        return self._fingerprint

    def hashed(self) -> str:
        """It, anew."""
        digest = hashlib.sha256(f"{self.kind} {type(self).__qualname__}".encode())
        for name in ("train", "val"):
            part = self.parts[name]
            if isinstance(part, Streamed):
                digest.update(f"{name} {part.fingerprint}".encode())
                continue
            places = torch.from_numpy(np.linspace(0, len(part) - 1, num=min(len(part), 256)).astype(np.int64))
            batch = self.prepared(part[places])
            digest.update(f"{name} {len(part)}".encode())
            for leaf in leaves(batch):
                digest.update(f"{tuple(leaf.shape)} {leaf.dtype}".encode())
                digest.update(leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]


class MemoryDraw(Draw):
    """See `Draw`."""

    def __init__(self, task: MapStyle, samples: Any) -> None:
        self._task, self._samples = copy.copy(task), samples
        self._task.parts = {}  # they may go

    def __len__(self) -> int:
        return len(self._samples)

    def batches(self, size: int, parts: int = 1) -> Iterator[Any]:
        """See `Draw`."""
        size = max(1, size // parts)
        for start in range(0, len(self), size):
            yield self._task.prepared(self._samples[start : start + size].to(self._task.compute.device))

    def whole(self, most: int) -> Any:
        """See `Draw`."""
        return self._task.prepared(self._samples[:most].to(self._task.compute.device))


class MemoryTraining(Training):
    """All randomness of step `t` comes from `(seed, t)` and that of epoch `e` from `(seed, e)`: nothing is stored."""

    def __init__(self, task: MapStyle, size: int, seed: int) -> None:
        self._task, self._seed, self.size = task, seed, size
        self.per_epoch = task.count("train") // size if size > 0 else 0

    def between(self, start: int, end: int) -> Iterator[Any]:
        """See `Training`."""
        train, per_epoch, size = self._task.parts["train"], self.per_epoch, self.size
        device = self._task.compute.device
        for epoch in range(start // per_epoch, math.ceil(end / per_epoch)):
            generator = torch.Generator().manual_seed(seed_of(self._seed, 0, epoch))
            order = torch.randperm(len(train), generator=generator)
            for i in range(max(0, start - epoch * per_epoch), min(per_epoch, end - epoch * per_epoch)):
                drawn = torch.Generator().manual_seed(seed_of(self._seed, 1, epoch * per_epoch + i))
                samples = self._task.augmented(train[order[i * size : (i + 1) * size]].to(device), drawn)
                yield self._task.prepared(samples)
