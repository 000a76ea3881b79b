"""Batches made by worker processes: a torch `DataLoader` over steps, in which batch t follows from t alone.

So it makes no difference how many processes there are, or at which step they begin; and where one of them is killed,
others make what is missing.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset

from autoprune.data.items import Damaged, Items
from autoprune.randomness import GlobalStream, reseed, seed_of
from objectives.plugins import PluginError, described

MOST = 16  # worker processes, where nobody says how many
DEATHS = 3  # of worker processes in one pass over data, after which the next is an error
SUBSTITUTES = 100  # that are tried for a damaged sample
PLAIN, TRAINING = 5, 6  # what a sample's seed is for
_DIED = re.compile(r"DataLoader worker \(pid")


class Batches(Protocol):
    """What is read by step."""

    def __getitem__(self, step: int) -> Any: ...


class Loaded:
    """Samples that were read, and what befell.

    Attributes:
        inputs: Stacked.
        targets: Likewise.
        skipped: Names of damaged samples that were left out.
        error: What reading them raised.
    """

    def __init__(
        self, inputs: Any = None, targets: Any = None, skipped: Sequence[str] = (), error: Exception | None = None
    ) -> None:
        self.inputs, self.targets, self.skipped, self.error = inputs, targets, tuple(skipped), error

    def pin_memory(self) -> Loaded:
        """Where a GPU fetches it fast; what `DataLoader` calls."""
        self.inputs, self.targets = (
            t.pin_memory() if hasattr(t, "pin_memory") else t for t in (self.inputs, self.targets)
        )
        return self


class Chunks(Dataset[Loaded]):
    """Samples in their order, as they are, so many a step; damaged ones are left out where that was asked for.

    Args:
        items: Where they are read.
        numbers: [N] which ones.
        size: Samples a step.
    """

    def __init__(self, items: Items, numbers: torch.Tensor, size: int) -> None:
        self._items, self._numbers, self._size = items, numbers, size

    def __len__(self) -> int:
        return -(-len(self._numbers) // self._size)

    def __getitem__(self, step: int) -> Loaded:
        numbers = self._numbers[step * self._size : (step + 1) * self._size].tolist()
        return read(self._items, [((PLAIN, n), (n,)) for n in numbers], train=False)


class Shuffled(Dataset[Loaded]):
    """The batches of a training: order from (seed, epoch), each sample's transforms from (seed, epoch, number).

    Args:
        items: Where they are read.
        numbers: [N] which ones.
        size: Samples a step; the last, partial batch of an epoch is dropped.
        seed: Of all that is random. For a damaged sample the next one that is sound stands in, where damaged ones are
            left out: all steps have as many.
        places: Which samples of each step are read; default all.
    """

    def __init__(
        self, items: Items, numbers: torch.Tensor, size: int, seed: int, places: Sequence[int] | None = None
    ) -> None:
        self._items, self._numbers, self._size, self._seed = items, numbers, size, seed
        self._places = torch.tensor(range(size) if places is None else places, dtype=torch.int64)
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self._numbers) // self._size

    def __getitem__(self, step: int) -> Loaded:
        epoch, place = divmod(step, len(self))
        if epoch != self._epoch:
            draws = torch.Generator().manual_seed(seed_of(self._seed, 0, epoch))
            self._epoch, self._order = epoch, torch.randperm(len(self._numbers), generator=draws)
        wanted = []
        for at in self._order[place * self._size + self._places].tolist():
            places = ((at + k) % len(self._numbers) for k in range(SUBSTITUTES if self._items.skip else 1))
            numbers = tuple(int(self._numbers[p]) for p in places)
            wanted.append(((self._seed, TRAINING, epoch, numbers[0]), numbers))
        return read(self._items, wanted, train=True)


def read(items: Items, wanted: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], *, train: bool) -> Loaded:
    """Read samples; whatever goes wrong comes back with them.

    Args:
        items: Where.
        wanted: Of each sample what its seed is made of, its number, and those that may stand in.
        train: As training sees them.
    """
    found, skipped = [], list[str]()
    random = items.draws or (train and items.augments)
    with GlobalStream(0).drawing() if random else contextlib.nullcontext():
        for key, numbers in wanted:
            for number in numbers:
                if random:
                    reseed(seed_of(*key))
                try:
                    found.append(items.read(number, train))
                    break
                except Damaged as error:
                    if not items.skip:
                        return Loaded(error=error)
                    skipped.append(items.name(number))
                except Exception as error:  # also of transforms, and whatever cannot be sent back
                    text = str(error) if type(error) in (ValueError, PluginError) else None
                    name = f"{items.where}: {items.name(number)}"
                    return Loaded(error=ValueError(text or f"{name} failed with {described(error)}"))
    if not found:
        return Loaded(skipped=skipped)
    inputs, targets = map(items.stack, zip(*found, strict=True))
    return Loaded(inputs, targets, skipped)


def processes(asked: int | str) -> int:
    """How many worker processes load data: as many as were asked for, or as this process has threads."""
    if isinstance(asked, int):
        return asked
    return max(1, min(torch.get_num_threads(), os.cpu_count() or 1, MOST))


def loaded(where: str, batches: Any, steps: Sequence[int], workers: int, pin: bool = False) -> Iterator[Any]:
    """What `batches` gives at each of the steps, in order, read ahead by worker processes.

    Args:
        where: What is read, for errors.
        batches: Of a step, that is picklable, or forked.
        steps: In order.
        workers: Processes; 0: this one.
        pin: Whether a GPU will fetch it.

    Raises:
        ValueError: If worker processes are killed again and again, or reading raises.
    """
    done = deaths = 0
    while done < len(steps):
        try:
            for found in _pass(batches, steps[done:], min(workers, len(steps) - done), pin):
                if (error := getattr(found, "error", None)) is not None:
                    raise error
                done += 1
                yield found
        except (RuntimeError, OSError, EOFError) as error:
            if not has_died(error):
                raise
            deaths, workers = deaths + 1, max(1, workers // 2)
            if deaths > DEATHS:
                raise ValueError(
                    f"{where}: the processes that load batches have been killed {deaths} times ({_how(error)}); the "
                    "system does so when memory (or shared memory, /dev/shm) runs out: give fewer --data-workers, or "
                    "a smaller --batch-size"
                ) from error


def has_died(error: BaseException) -> bool:
    """Whether this is what is heard of a worker process that was killed: from the loader, or from its sockets."""
    return isinstance(error, (ConnectionError, EOFError)) or bool(_DIED.search(str(error)))


def _pass(batches: Any, steps: Sequence[int], workers: int, pin: bool) -> Iterator[Any]:
    own = torch.Generator().manual_seed(0)  # else the global one moves
    with deaths_in_order(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)  # more than there are cores
        loader: DataLoader[Any] = DataLoader(
            batches, batch_size=None, sampler=steps, num_workers=workers, pin_memory=pin, generator=own
        )
        found = iter(loader)
    try:
        yield from found
    finally:
        shut = getattr(found, "_shutdown_workers", None)
        if callable(shut):
            shut()


@contextlib.contextmanager
def deaths_in_order() -> Iterator[None]:
    """A block that may start a `DataLoader`, whose dead workers are told where a batch is waited for.

    torch's handler of SIGCHLD would raise at whatever line the main thread has just come to; without it the loader
    looks after its workers every five seconds while it waits.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if _is_torchs(signal.getsignal(signal.SIGCHLD)):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None or _is_torchs(before) else before)


def _is_torchs(handler: Any) -> bool:
    return str(getattr(handler, "__module__", "")).startswith("torch.utils.data")


def _how(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
