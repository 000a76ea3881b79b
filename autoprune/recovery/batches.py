"""What each step of a training sees.

All randomness of step `t` comes from `(seed, t)` and that of epoch `e` from `(seed, e)`, so a training that is resumed
draws what it would have drawn, and nothing random needs to be stored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from autoprune.compute import Compute
from autoprune.data import ImageData, Split, augment


@dataclass(frozen=True, eq=False)
class Batches:
    """The batches of a training.

    Attributes:
        data: How images are augmented and normalised.
        train: The training images, on the device.
        size: Images per step; the last, partial batch of an epoch is dropped.
        seed: Of the order, the crops and flips, and the dropout.
        compute: The device.
    """

    data: ImageData
    train: Split
    size: int
    seed: int
    compute: Compute

    def between(self, start: int, end: int) -> Iterator[Split]:
        """Those of the steps `start` to `end`; each epoch in an order of its own."""
        per_epoch = len(self.train) // self.size
        for epoch in range(start // per_epoch, math.ceil(end / per_epoch)):
            generator = torch.Generator().manual_seed(_seed(self.seed, 0, epoch))
            order = torch.randperm(len(self.train), generator=generator).to(self.compute.device)
            for i in range(max(0, start - epoch * per_epoch), min(per_epoch, end - epoch * per_epoch)):
                yield self.train[order[i * self.size : (i + 1) * self.size]]

    def augmented(self, batch: Split, step: int) -> Tensor:
        """[N, C, H, W] its images, cropped and flipped as in step `step`, normalised."""
        generator = torch.Generator().manual_seed(_seed(self.seed, 1, step))
        images = augment(batch.images, self.data.augmentation, generator)
        return self.data.normalise(images, self.compute.channels_last)

    @contextmanager
    def dropout(self, step: int) -> Iterator[None]:
        """Dropout draws from torch's global generators: seed them for the block, then put them back as they were."""
        cuda = self.compute.device.type == "cuda"
        seed = _seed(self.seed, 2, step)
        with torch.random.fork_rng([self.compute.device] if cuda else []):
            torch.default_generator.manual_seed(seed)
            if cuda:
                torch.cuda.manual_seed(seed)
            yield


def _seed(*key: int) -> int:
    """A seed for torch from a key of non-negative integers."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
