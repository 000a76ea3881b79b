"""How long a part of a run takes, measured where it was measured, else from what was: by the samples that pass.

A finalist before the first one, and the fine-tune before its first step, are estimated from the seconds of what came
before, at the same seconds a sample; a backward pass costs about two forward ones.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autoprune.config import RunConfig
from autoprune.files import DiskError, write_text

NOTE = "samples"  # the ledger's note of how many there are
EVERY_S = 5.0  # between two notes of a fine-tune's pace


@dataclass(frozen=True)
class Samples:
    """How many samples a run trains and validates with, as its ledger notes them.

    Attributes:
        train: That train.
        val: That validate.
        batch: In a batch of training, where a loader makes them; None: what the settings say.
    """

    train: int
    val: int
    batch: int | None = None

    @classmethod
    def of(cls, notes: Mapping[str, Any]) -> Samples | None:
        """As a ledger notes them; None if it is of a release that did not."""
        return cls(*notes[NOTE]) if NOTE in notes else None

    def to_json(self) -> list[int]:
        """For the ledger."""
        return [self.train, self.val, *([] if self.batch is None else [self.batch])]

    def batch_of(self, config: RunConfig) -> int:
        """Samples in a batch of training."""
        return config.batch_of(self.train) if self.batch is None else min(self.batch, self.train)


def passes(fidelity: str, config: RunConfig, samples: Samples) -> int:
    """Samples that pass through a candidate, forwards; those of training steps count three times."""
    from autoprune.evaluation import (  # here, because settings are shown without torch
        EvaluationPlan,
        EvaluationSettings,
    )
    from autoprune.evaluation.starts import starts_of

    numbers = {"bn_samples": config.bn_samples, "short_steps": config.short_steps}
    numbers["fit_samples"] = EvaluationSettings.fit_samples
    plan = EvaluationPlan.of(fidelity, reconstruct=config.reconstruct, **numbers)
    once = sum(min(count, samples.train) for count in (plan.bn_samples, plan.fit_samples))
    starts = len(starts_of(plan, ["magnitude"] if config.criterion == "group_fisher" else []))
    steps = plan.steps + (starts * plan.trial_steps if starts > 1 else 0)
    return min(config.val_samples, samples.val) + once + 3 * steps * samples.batch_of(config)


def tuning_steps(config: RunConfig, samples: Samples) -> int:
    """Steps of the final fine-tune."""
    return round(config.epochs * (samples.train // samples.batch_of(config)))


def tuning_passes(config: RunConfig, samples: Samples) -> int:
    """Samples that pass in the final fine-tune, as in `passes`; a teacher sees each of them, too."""
    batch = samples.batch_of(config)
    return tuning_steps(config, samples) * batch * (4 if config.distill else 3)


@dataclass(frozen=True)
class Tuning:
    """How far a fine-tune is, by its own steps.

    Attributes:
        step: Done.
        steps: In all.
        step_s: Seconds of one, mean since it began or went on.
    """

    step: int
    steps: int
    step_s: float

    @property
    def left_s(self) -> float:
        """Seconds until it is done."""
        return (self.steps - self.step) * self.step_s

    @classmethod
    def read(cls, folder: Path) -> Tuning | None:
        """What the fine-tune that writes into a folder noted last; None if there is nothing that can be read."""
        notes = sorted(folder.glob("*.pace.json"), key=lambda p: p.stat().st_mtime)
        with suppress(IndexError, OSError, ValueError, TypeError):
            return cls(**json.loads(notes[-1].read_text(encoding="utf-8")))
        return None


class Stopwatch:
    """Times the steps of a training, and notes its pace beside its checkpoint, for `status` in another process.

    Args:
        checkpoint: Of the fine-tune; None: nothing is noted.
    """

    def __init__(self, checkpoint: Path | None = None) -> None:
        self._note = checkpoint and checkpoint.with_suffix(".pace.json")
        self._from: tuple[int, float] | None = None
        self._noted = float("-inf")
        self.over()  # of an attempt that was killed

    def over(self) -> None:
        """What follows has a pace of its own."""
        if self._note:
            self._note.unlink(missing_ok=True)

    def __call__(self, step: int, steps: int, clock: Callable[[], float] = time.monotonic) -> Tuning:
        """Step `step` of `steps` is done."""
        now = clock()
        first, began = self._from = self._from or (step, now)
        found = Tuning(step, steps, (now - began) / (step - first) if step > first else 0.0)
        if self._note and step > first and (now - self._noted >= EVERY_S or step == steps):
            self._noted = now
            with suppress(DiskError):  # a training does not stop for want of a note
                write_text(self._note, json.dumps(asdict(found)))
        return found
