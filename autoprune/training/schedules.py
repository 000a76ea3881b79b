"""Learning-rate schedules: (step, steps) -> factor of the peak learning rate; one file's worth of one-liners."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from autoprune.settings import TrainingSettings
from objectives.plugins import find, running

Schedule = Callable[[int, int], float]


def linear(step: int, steps: int, warmup: int = 0) -> float:
    """Down to 0 in a line: with warm-up "LLR" of Zimmer et al. 2023, https://arxiv.org/abs/2111.00843."""
    return (steps - step) / (steps - warmup + 1)


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


SCHEDULES: dict[str, Callable[..., float]] = {"linear": linear, "cosine": cosine, "constant": constant, "step": stairs}


def schedule_of(settings: TrainingSettings, steps: int) -> Schedule:
    """The factor of a training of so many steps: up in a line over the warm-up, then as the schedule says.

    Raises:
        ValueError: If there is no such schedule, or it leaves nothing after the warm-up.
    """
    warmup = warmup_of(settings, steps)
    name = settings.lr_schedule
    after = find("lr_schedule", name, SCHEDULES)
    if not callable(after):
        raise ValueError(f"lr_schedule '{name}': must be a function of (step, steps), got {after!r:.60}")
    if name == "step":
        after = partial(after, milestones=settings.milestones, gamma=settings.lr_gamma)
    after = partial(after, warmup=warmup) if name in SCHEDULES else partial(_given, after, name)
    return lambda step, steps: (step + 1) / warmup if step < warmup else after(step, steps)


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
