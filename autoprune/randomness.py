"""Seeds from keys, and blocks in which the global generators are a stream of their own."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_of(*key: int) -> int:
    """A seed for torch from a key of non-negative integers."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


def reseed(seed: int) -> None:
    """Put the global generators of torch, NumPy and Python to a seed."""
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002, what users' transforms draw from
    random.seed(seed)


@contextmanager
def seeded(seed: int, devices: Iterable[torch.device]) -> Iterator[None]:
    """What a network draws in the block, on the CPU or on CUDA devices, follows from the seed.

    Afterwards the global generators are as they were; those of other devices are left alone.

    Args:
        seed: Of all of them.
        devices: That the network is on.
    """
    cuda = [device for device in devices if device.type == "cuda"]
    with torch.random.fork_rng(cuda):
        torch.default_generator.manual_seed(seed)
        for device in cuda:  # those in use, which need not be the current one
            index = torch.cuda.current_device() if device.index is None else device.index
            torch.cuda.default_generators[index].manual_seed(seed)
        yield


class GlobalStream:
    """What a user's loader draws from the global generators of torch, NumPy and Python, from a seed.

    A block goes on where the one before it has stopped; outside of the blocks these generators are as they were.

    Args:
        key: Of the seed.
    """

    def __init__(self, *key: int) -> None:
        self._seed: int | None = seed_of(*key)
        self._state: Any = None

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """A block that draws from the stream."""
        before = _states()
        try:
            if self._seed is not None:
                reseed(self._seed)
                self._seed = None
            else:
                _restore(self._state)
            yield
        finally:
            self._state = _states()
            _restore(before)


def _states() -> Any:
    return torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002


def _restore(states: Any) -> None:
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    random.setstate(states[2])
