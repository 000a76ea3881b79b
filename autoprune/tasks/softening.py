"""Targets as probabilities: label smoothing and mixup, for tasks with one class number for each sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune.randomness import seed_of
from autoprune.tasks.task import Task
from autoprune.tasks.trees import TARGETS, inputs_of, leaves, main_output, mapped, targets_of


@dataclass(frozen=True)
class Softening:
    """Makes the batches of a training softer.

    Attributes:
        classes: How many the network tells apart.
        smoothing: Share of the probability that goes to all classes alike (Szegedy et al. 2016,
            https://arxiv.org/abs/1512.00567, section 7).
        mixup: Each sample is mixed with another, lambda ~ Beta(mixup, mixup) (Zhang et al. 2018,
            https://arxiv.org/abs/1710.09412); 0: none.
        seed: Of lambda.
    """

    classes: int
    smoothing: float
    mixup: float
    seed: int

    @classmethod
    def of(cls, task: Task, model: nn.Module, smoothing: float, mixup: float, seed: int) -> Softening | None:
        """What softens the batches of a task; None: nothing is to be softened.

        Args:
            task: On the device.
            model: Says how many classes there are.
            smoothing: See above.
            mixup: See above.
            seed: See above.

        Raises:
            ValueError: If the task has no class numbers, its loss takes no probabilities, or its inputs cannot be
                mixed.
        """
        if not (smoothing or mixup):
            return None
        what = "label_smoothing" if smoothing else "mixup"
        batch = task.draw("calibration", 2, seed).whole(2)
        targets, inputs = targets_of(batch), leaves(inputs_of(batch))
        if not task.takes_probabilities or not _are_classes(targets):
            raise ValueError(f"{what}: needs one class number for each sample, and a loss that takes probabilities "
                             f"[N, classes] too, as cross-entropy does; {task.where('train')} has other targets or a "
                             "loss of its own: leave it at 0, or soften them there")  # fmt: skip
        if mixup and not (inputs and all(isinstance(t, Tensor) and t.is_floating_point() for t in inputs)):
            raise ValueError(f"mixup: the inputs of {task.where('train')} are no floats, so they cannot be mixed; "
                             "leave it at 0")  # fmt: skip
        is_training = model.training
        with torch.no_grad():
            scores = main_output(task.call(model.eval(), batch))
        model.train(is_training)
        if not isinstance(scores, Tensor) or scores.dim() != 2:
            raise ValueError(f"{what}: the network answers {task.where('train')} with no scores [N, classes]; leave it "
                             "at 0")  # fmt: skip
        return cls(scores.shape[1], smoothing, mixup, seed)

    def __call__(self, batch: Any, step: int) -> Any:
        """The batch of a step, its targets probabilities [N, classes]."""
        soft = functional.one_hot(targets_of(batch).long(), self.classes).float()
        soft = soft * (1 - self.smoothing) + self.smoothing / self.classes
        if self.mixup:
            share = float(np.random.default_rng(seed_of(self.seed, 4, step)).beta(self.mixup, self.mixup))
            batch = _with_inputs(batch, mapped(lambda t: t.lerp(t.roll(1, 0), 1 - share), inputs_of(batch)))
            soft = soft.lerp(soft.roll(1, 0), 1 - share)
        return _with_targets(batch, soft)


def _are_classes(targets: Any) -> bool:
    return isinstance(targets, Tensor) and targets.dim() == 1 and not targets.is_floating_point()


def _with_inputs(batch: Any, inputs: Any) -> Any:
    return {**batch, **inputs} if isinstance(batch, Mapping) else type(batch)((inputs, *batch[1:]))


def _with_targets(batch: Any, targets: Tensor) -> Any:
    if isinstance(batch, Mapping):
        return {**batch, next(name for name in TARGETS if name in batch): targets}
    return type(batch)((batch[0], targets))
