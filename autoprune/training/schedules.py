"""Learning-rate schedules: (step, steps) -> factor of the peak learning rate; one file's worth of one-liners."""

from __future__ import annotations

import math
from collections.abc import Callable

WARMUP = 0.1  # of the steps, in `linear`


def linear(step: int, steps: int) -> float:
    """Up over the first tenth, then linearly to 0: "LLR" of Zimmer et al. 2023, https://arxiv.org/abs/2111.00843."""
    warmup = max(1, round(WARMUP * steps))
    return (step + 1) / warmup if step < warmup else (steps - step) / (steps - warmup + 1)


def cosine(step: int, steps: int) -> float:
    """From the peak to 0 along half a cosine, no warm-up (Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983)."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def constant(step: int, steps: int) -> float:
    """No decay."""
    return 1.0


SCHEDULES: dict[str, Callable[[int, int], float]] = {"linear": linear, "cosine": cosine, "constant": constant}
