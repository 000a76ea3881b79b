"""The randomness of a training's own layers; that of its batches is the task's.

All of step `t` comes from `(seed, t)`, so a training that is resumed draws what it would have drawn, and nothing random
needs to be stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from autoprune.compute import Compute
from autoprune.randomness import seed_of, seeded


@contextmanager
def dropout(seed: int, step: int, compute: Compute, rank: int = 0) -> Iterator[None]:
    """Dropout draws from torch's global generators: seed them for the block, then put them back as they were."""
    with seeded(seed_of(seed, 2, step, *([rank] if rank else [])), [compute.device]):
        yield
