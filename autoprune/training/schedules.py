"""Learning-rate schedules: (step, steps) -> factor of the peak learning rate; one file's worth of one-liners.

The rules of "back to basics" (Zimmer et al. 2023, https://arxiv.org/abs/2111.00843) with the peak of the dense training
as `lr`: LLR is linear, CLR cosine, each with the usual warm-up of a tenth; SLR is scaled, LRW rewind (no warm-up), ALLR
adaptive; and FT is constant, at the last rate of the dense training.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from autoprune.settings import TrainingSettings
from objectives.plugins import find, running

Schedule = Callable[[int, int], float]


def linear(step: int, steps: int, warmup: int = 0) -> float:
    """Down to 0 in a line: with warm-up "LLR" of Zimmer et al. 2023, https://arxiv.org/abs/2111.00843."""
    return (steps - step) / (steps - max(0, warmup - 1))  # the last step of the warm-up has the whole rate


def cosine(step: int, steps: int, warmup: int = 0) -> float:
    """From the peak to 0 along half a cosine (Loshchilov & Hutter 2017, https://arxiv.org/abs/1608.03983)."""
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def constant(step: int, steps: int, warmup: int = 0) -> float:
    """No decay."""
    return 1.0


def stairs(
    step: int, steps: int, warmup: int = 0, *, milestones: Sequence[float] = (0.5, 0.75), gamma: float = 0.1
) -> float:
    """Times `gamma` at each milestone (a step, or a fraction): He et al. 2016, https://arxiv.org/abs/1512.03385."""
    return float(gamma ** sum(step >= _at(milestone, steps) for milestone in milestones))


def scaled(step: int, steps: int, warmup: int = 0, *, original: Schedule) -> float:
    """The dense training's schedule, compressed into this one: "SLR" (Le & Hua 2021, https://arxiv.org/abs/2105.03193)."""
    return original(step - warmup, steps - warmup)


def rewind(step: int, steps: int, warmup: int = 0, *, original: Schedule, length: int) -> float:
    """The last steps of the dense training again, of `length`: Renda et al. 2020, https://arxiv.org/abs/2003.02389."""
    return original(length - steps + step, length)


SCHEDULES: dict[str, Callable[..., float]] = {"linear": linear, "cosine": cosine, "constant": constant, "step": stairs}
ADAPTIVE = "adaptive"  # linear, from a rate that the cut decides (see `adaptive_start`)
RULES = {**SCHEDULES, "scaled": scaled, "rewind": rewind, ADAPTIVE: linear}


def adaptive_start(change: float, sparsity: float, share: float) -> float:
    """ALLR: the factor of the peak from which the rate falls linearly, between the share of epochs and 1.

    Args:
        change: |w - w of what stays| / |w|, over all weights of the dense network.
        sparsity: Share of these weights that went.
        share: Epochs of this training as a share of the dense network's; 0: unknown.
    """
    wanted = change / math.sqrt(sparsity) if sparsity > 0 else 0.0
    return min(1.0, max(wanted, share))


def schedule_of(settings: TrainingSettings, steps: int, per_epoch: int = 0) -> Schedule:
    """The factor of a training of so many steps: up in a line over the warm-up, then as the schedule says.

    Args:
        settings: How it is trained.
        steps: Of it.
        per_epoch: Steps of one epoch; needed where it follows the dense training.

    Raises:
        ValueError: If there is no such schedule, it leaves nothing after the warm-up, or the dense training is unknown.
    """
    name = settings.lr_schedule
    warmup = 0 if name == "rewind" else warmup_of(settings, steps)
    after = find("lr_schedule", name, RULES)
    if name in ("scaled", "rewind"):
        original: Any = find("lr_original", settings.lr_original, SCHEDULES)
        if settings.lr_original == "step":
            original = partial(original, milestones=settings.milestones, gamma=settings.lr_gamma)
        after = partial(after, original=original)
    if name == "rewind":
        length = round(settings.lr_original_epochs * per_epoch)
        if length < steps:
            raise ValueError(f"lr_schedule 'rewind': goes back {steps} steps in the dense network's training, of which "
                             f"lr_original_epochs says that it had {length}; give how many epochs it took")  # fmt: skip
        after = partial(after, length=length)
    if not callable(after):
        raise ValueError(f"lr_schedule '{name}': must be a function of (step, steps), got {after!r:.60}")
    if name == "step":
        after = partial(after, milestones=settings.milestones, gamma=settings.lr_gamma)
    after = partial(after, warmup=warmup) if name in RULES else partial(_given, after, name)
    return lambda step, steps: (step + 1) / warmup if step < warmup else after(step, steps)


def in_cycles(settings: TrainingSettings, steps: int, per_epoch: int, cycles: int) -> Schedule:
    """The schedule of a training that goes through it so many times, each time in as many steps.

    Raises:
        ValueError: As `schedule_of`.
    """
    starts = starts_of(steps, cycles)
    parts = [schedule_of(settings, end - start, per_epoch) for start, end in pairwise([*starts, steps])]

    def factor(step: int, steps: int) -> float:
        number = bisect_right(starts, step) - 1
        end = [*starts, steps][number + 1]
        return parts[number](step - starts[number], end - starts[number])

    return factor


def starts_of(steps: int, cycles: int) -> list[int]:
    """The first step of each of so many equal parts of a training."""
    return [round(number * steps / cycles) for number in range(cycles)]


def warmup_of(settings: TrainingSettings, steps: int) -> int:
    """Steps of warm-up.

    Raises:
        ValueError: If they leave no step after them.
    """
    warmup = max(1, _at(settings.warmup, steps)) if settings.warmup else 0
    if warmup > max(1, steps - 1):
        raise ValueError(f"warmup: {warmup} steps of warm-up leave none of the training's {steps} steps at the full "
                         "learning rate; give fewer, or a fraction such as 0.1")  # fmt: skip
    return warmup


def _at(place: float, steps: int) -> int:
    """A fraction of the steps, or a number of them."""
    return round(place * steps) if place < 1 else round(place)


def _given(function: Callable[[int, int], float], name: str, step: int, steps: int) -> float:
    """A function of the user's."""
    with running(f"lr_schedule '{name}'", f"on step {step} of {steps}"):
        factor = float(function(step, steps))
    if not (math.isfinite(factor) and factor >= 0):
        raise ValueError(f"lr_schedule '{name}': must give a factor of at least 0, got {factor} at step {step} of "
                         f"{steps}")  # fmt: skip
    return factor
