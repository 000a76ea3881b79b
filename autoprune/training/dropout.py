"""The randomness of a training's own layers; that of its batches is the task's.

All of step `t` comes from `(seed, t)`, so a training that is resumed draws what it would have drawn, and nothing random
needs to be stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from autoprune.compute import Compute
from autoprune.tasks import seed_of


@contextmanager
def dropout(seed: int, step: int, compute: Compute, rank: int = 0) -> Iterator[None]:
    """Dropout draws from torch's global generators: seed them for the block, then put them back as they were."""
    cuda = compute.device.type == "cuda"
    drawn = seed_of(seed, 2, step, *([rank] if rank else []))
    with torch.random.fork_rng([compute.device] if cuda else []):
        torch.default_generator.manual_seed(drawn)
        if cuda:  # of the device in use, which need not be the current one
            index = torch.cuda.current_device() if compute.device.index is None else compute.device.index
            torch.cuda.default_generators[index].manual_seed(drawn)
        yield
