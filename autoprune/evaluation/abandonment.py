"""Early abandonment: stop scoring a candidate that its first images already rule out.

Candidate and incumbent are scored on the same images in the same order, so their losses are compared in pairs, block
by block, by a one-sided paired t test (Student 1908). The images are in random order, hence the blocks seen so far are
a fair sample of all. At most 60 looks at level 1e-5 each: a candidate that is in truth no worse is abandoned with a
probability below 6e-4 (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import stdtrit
from torch import Tensor

BLOCK = 32  # images whose losses are averaged: enough for near-normal means, few enough for many of them
MIN_BLOCKS = 8
LEVEL = 1e-5


def block_means(losses: Tensor) -> list[float]:
    """Mean of each `BLOCK` of the [N] losses, in order (the last block may be smaller)."""
    rest = losses[len(losses) // BLOCK * BLOCK :].double()
    return whole_blocks(losses) + ([float(rest.mean())] if len(rest) else [])


def whole_blocks(losses: Tensor) -> list[float]:
    """The same without a smaller last one."""
    count = len(losses) // BLOCK
    means: list[float] = losses[: count * BLOCK].double().view(count, BLOCK).mean(1).tolist()
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


def estimate(seen: Sequence[float], incumbent: Sequence[float], images: int) -> float:
    """The loss that the candidate would have had: the incumbent's plus the mean difference so far.

    Args:
        seen: Block means of the candidate so far.
        incumbent: All block means of the incumbent.
        images: How many images all blocks hold.
    """
    sizes = np.full(len(incumbent), BLOCK, dtype=np.float64)
    sizes[-1] = images - BLOCK * (len(incumbent) - 1)
    difference = np.mean(np.asarray(seen) - np.asarray(incumbent[: len(seen)]))
    return float(np.average(incumbent, weights=sizes) + difference)
