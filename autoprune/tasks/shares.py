"""One training by several processes: which samples of each batch are whose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autoprune.tasks.trees import divisible, num_samples, part_of, shapes


@dataclass(frozen=True)
class Share:
    """The part of every batch that one of several processes trains on.

    Attributes:
        rank: Number of the process.
        size: How many there are.
        mixed: Whether each sample is mixed with the one before it, so that this one has to be there, too.
    """

    rank: int = 0
    size: int = 1
    mixed: bool = False

    def ends(self, count: int) -> tuple[int, int]:
        """The first of `count` samples that is this process's, and the one after its last."""
        first, last = (count * number // self.size for number in (self.rank, self.rank + 1))
        return first, last

    def places(self, count: int) -> tuple[int, ...]:
        """Which of `count` samples it has to read."""
        first, last = self.ends(count)
        if first == last:  # one, so that there is something to read
            return (first % count,)
        before = ((first - 1) % count,) if self.mixed and self.size > 1 else ()
        return (*before, *range(first, last))


@dataclass(frozen=True)
class Portion:
    """What a process has of a batch.

    Attributes:
        batch: What it has read.
        start: The first sample of it that this process trains on; those before it are there to be mixed with.
        end: The one after the last.
        elsewhere: Samples of the batch that other processes train on.
    """

    batch: Any
    start: int
    end: int
    elsewhere: int = 0

    @classmethod
    def of(cls, batch: Any, share: Share) -> Portion:
        """Of a whole batch.

        Raises:
            ValueError: If it cannot be shared, as its targets are not told apart by samples.
        """
        return cls(batch, *share.ends(_count(batch, share)))

    @classmethod
    def read(cls, batch: Any, share: Share, count: int) -> Portion:
        """Of the samples at `Share.places` of `count`, perhaps without some that were left out.

        Raises:
            ValueError: As `of`.
        """
        first, last = share.ends(count)
        found = _count(batch, share)
        return cls(batch, min(len(share.places(count)) - (last - first), found), found)

    @property
    def count(self) -> int:
        """Samples that this process trains on."""
        return self.end - self.start

    @property
    def whole(self) -> int:
        """Samples of the batch."""
        return self.count + self.elsewhere

    def own(self, softened: Callable[[Any], Any] | None = None) -> Any:
        """The samples that this process trains on, softened with those around them; None: it has none."""
        if not self.count:
            return None
        batch = self.batch if softened is None else softened(self.batch)
        return batch if (self.start, self.end) == (0, num_samples(batch)) else part_of(batch, self.start, self.end)


def _count(batch: Any, share: Share) -> int:
    if share.size > 1 and not divisible(batch):
        raise ValueError(f"training: a batch ({shapes(batch)}) cannot be shared by {share.size} processes, as its "
                         "targets are not one for each sample; give a list of them, or one process")  # fmt: skip
    return num_samples(batch)
