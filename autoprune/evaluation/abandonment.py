"""Early abandonment: stop scoring a candidate that its first samples already rule out.

Candidate and incumbent are scored on the same samples in the same order, so their losses are compared in pairs, block
by block, by a one-sided paired t test (Student 1908). A block is 32 samples, or a batch where a task says one loss
for each batch. The samples are in random order, hence the blocks seen so far are a fair sample of all. At most 60
looks at level 1e-5 each: a candidate that is in truth no worse is abandoned with a probability below 6e-4
(Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

BLOCK = 32  # samples whose losses are averaged: enough for near-normal means, few enough for many of them
MIN_BLOCKS = 8
LEVEL = 1e-5


def block_means(losses: Tensor) -> list[float]:
    """Mean of each `BLOCK` of the [N] losses, in order (the last block may be smaller)."""
    rest = losses[len(losses) // BLOCK * BLOCK :].double()
    return whole_blocks(losses) + ([float(rest.mean())] if len(rest) else [])


def whole_blocks(losses: Tensor) -> list[float]:
    """The same without a smaller last one."""
    count = len(losses) // BLOCK
    means: list[float] = losses[: count * BLOCK].double().view(count, BLOCK).mean(1).cpu().tolist()
    return means


def hopeless(seen: Sequence[float], incumbent: Sequence[float]) -> bool:
    """Whether the candidate is surely worse than the incumbent.

    Args:
        seen: Block means of the candidate so far.
        incumbent: All block means of the incumbent.
    """
    count = len(seen)
    if count < MIN_BLOCKS or count > len(incumbent):
        return False
    difference = np.asarray(seen) - np.asarray(incumbent[:count])
    error = difference.std(ddof=1) / np.sqrt(count)
    return bool(difference.mean() > stdtrit(count - 1, 1 - LEVEL) * error)


def estimate(seen: Sequence[float], incumbent: Sequence[float], samples: int, block: int = BLOCK) -> float:
    """The loss that the candidate would have had: the incumbent's plus the mean difference so far.

    Args:
        seen: Block means of the candidate so far.
        incumbent: All block means of the incumbent.
        samples: How many samples all blocks hold.
        block: How many each but the last one holds.
    """
    sizes = np.full(len(incumbent), block, dtype=np.float64)
    sizes[-1] = max(1, samples - block * (len(incumbent) - 1))
    difference = np.mean(np.asarray(seen) - np.asarray(incumbent[: len(seen)]))
    return float(np.average(incumbent, weights=sizes) + difference)


class Losses:
    """The losses of a pass over some samples: of each sample, or of each batch."""

    def __init__(self) -> None:
        self._values: list[Tensor] = []
        self._sizes: list[int] = []
        self._each = True

    def add(self, loss: Tensor, count: int) -> None:
        """The loss of a batch: [count], or its mean."""
        self._each = self._each and loss.dim() > 0
        self._values.append(loss.detach())
        self._sizes.append(count)

    @property
    def tensors(self) -> list[Tensor]:
        """Those that it holds."""
        return self._values

    @property
    def block(self) -> int:
        """Samples of a block."""
        return BLOCK if self._each else self._sizes[0]

    def num_blocks(self, count: int) -> int:
        """Of so many samples."""
        return math.ceil(count / self.block)

    def whole(self) -> list[float]:
        """Means of the blocks that are full (waits for the device)."""
        return whole_blocks(torch.cat(self._values)) if self._each else self._batches()

    def all(self) -> list[float]:
        """The same with a smaller last one."""
        return block_means(torch.cat(self._values)) if self._each else self._batches()

    def mean(self) -> float:
        """Over all samples."""
        if self._each:
            return float(torch.cat(self._values).double().mean())
        return float(np.average(self._batches(), weights=self._sizes))

    def _batches(self) -> list[float]:
        means: list[float] = torch.stack([v.double().mean() for v in self._values]).cpu().tolist()
        return means
