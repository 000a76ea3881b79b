"""The one training loop: seeded, checkpointed, resumed to the same bits, with hooks for methods that prune meanwhile.

All randomness comes from the seed and the number of the step or epoch (see `tasks.Training`): nothing random is stored.
On CUDA the same bits need `compute.same_bits`: else gradients of convolutions are added in another order each time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.compute import Compute
from autoprune.data import ImageData
from autoprune.files import DiskError
from autoprune.settings import TrainingSettings
from autoprune.tasks import Softening, Task, Training, as_task
from autoprune.training import checkpoint
from autoprune.training.methods import Cut, Method, Plan
from autoprune.training.optimisers import optimizer_of
from autoprune.training.schedules import schedule_of
from autoprune.training.stability import check_strength
from autoprune.training.state import TrainingState

StepListener = Callable[[int, int, float], None]  # (steps done, steps in all, training loss of the last step)


@dataclass(frozen=True)
class TrainingLog:
    """What a training did.

    Attributes:
        steps: Steps in all; fewer than planned where a method had found what it looked for.
        losses: Training loss of each step (mean over its batch), those before a resume included.
        seconds_compute: Time in forward and backward passes, of this call.
        seconds_total: Wall time of this call.
        resumed_from: Step at which this call took over; 0 for a fresh start.
    """

    steps: int
    losses: tuple[float, ...]
    seconds_compute: float
    seconds_total: float
    resumed_from: int = 0


@dataclass(frozen=True)
class Checkpoints:
    """Where a training keeps its state.

    Attributes:
        path: File that holds it.
        every: Steps between two of them; there is one at the end, too.
        strict: Whether one that is no use or cannot be written is an error; if not, the training begins at the start,
            or goes on without it.
        resume: Whether to go on from the file if it exists.
        told: Called with the steps done, in every process, once such a state is written.
    """

    path: Path
    every: int = 200
    strict: bool = True
    resume: bool = True
    told: Callable[[int], None] | None = None

    def __post_init__(self) -> None:
        """Take the name of a file, too."""
        object.__setattr__(self, "path", Path(self.path))


def finetune(
    model: nn.Module,
    task: Task | ImageData,
    settings: TrainingSettings | None = None,
    *,
    steps: int | None = None,
    teacher: nn.Module | None = None,
    method: Method | None = None,
    micro_batches: int = 1,
    checkpoints: Checkpoints | None = None,
    listener: StepListener | None = None,
    check: bool = True,
) -> TrainingLog:
    """Train `model` in place; the weights of the last step stay, never the best of some test.

    The last, partial batch of an epoch of samples in memory is dropped; a loader's epoch is all that it gives.

    Args:
        model: Moved to the device and left there, in eval mode.
        task: Its training samples, augmented, and its loss.
        settings: How it is trained.
        steps: Length in optimiser steps, instead of `settings.epochs`.
        teacher: The dense network; None: the plain loss, whatever `settings.distill` is.
        method: What else happens in each step; default nothing (`Cut`).
        micro_batches: Passes that a batch is split into, whose gradients are added: less memory, the same steps; only
            batch-norm and dropout see the difference.
        checkpoints: Where the state is kept; None: nowhere.
        listener: Told after each step.
        check: Whether a strength of the method that makes the training diverge is refused before the first step; runs
            do that before their search.

    Raises:
        ValueError: If a setting does not fit the task or the network, the method's strength makes the training diverge,
            or the checkpoint belongs to another training.
        Diverged: If the loss becomes NaN or infinite.
        DiskError: If the checkpoint cannot be written.
    """
    start = time.perf_counter()
    settings = TrainingSettings.of(settings or TrainingSettings())
    compute = Compute.choose(settings.device, settings.amp, graphs=settings.cuda_graphs)
    task = as_task(task).on(compute)
    plan, training = plan_of(task, settings, compute, steps)
    total, batch = plan.steps, plan.batch
    if total < 1 or not settings.lr > 0:
        raise ValueError(f"training: needs at least one step at a rate above 0, got {total} steps at {settings.lr}")
    if not 1 <= micro_batches <= batch:
        raise ValueError(f"training: micro_batches must lie between 1 and the batch of {batch}, got {micro_batches}")
    teacher = teacher if settings.distill else None
    with compute.placed(model), nullcontext() if teacher is None else compute.placed(teacher):
        run = TrainingState(model, plan, micro_batches, teacher, method or Cut())
        if checkpoints is not None and checkpoints.resume:
            state = None
            with nullcontext() if checkpoints.strict else suppress(ValueError):
                state = _stored(run, checkpoints.path)
            if state is not None:
                run.restore(state, checkpoints.path)
        if check and not run.step:
            check_strength(run.model, run.method, plan)
        if settings.rescale and not run.step:
            run.rescale(training.between(0, settings.rescale + 1))
        resumed_from = run.step
        portions = training.portions(run.step * settings.accumulate, total * settings.accumulate, run.share)
        while not run.is_over and (found := run.processes.next(portions, settings.accumulate, compute.device)):
            run.advance(found)
            if listener is not None:
                listener(run.step, total, run.losses[-1])
            if checkpoints is not None and (run.step % checkpoints.every == 0 or run.is_over):
                run.unite()
                with nullcontext() if checkpoints.strict else suppress(DiskError):
                    if run.processes.is_first:
                        checkpoint.save(checkpoints.path, run.state())
                    if checkpoints.told:
                        checkpoints.told(run.step)
        run.unite()
        run.end()
    seconds = time.perf_counter() - start
    return TrainingLog(run.step, tuple(run.losses), run.clock.seconds, seconds, resumed_from)


def _stored(run: TrainingState, path: Path) -> dict[str, Any] | None:
    """The state of a checkpoint, if there is one: what the first process reads, all go on from.

    Raises:
        ValueError: If it is no use.
    """
    alone = run.processes.size == 1

    def read() -> Any:
        try:
            where = run.plan.compute.device if alone else torch.device("cpu")
            return checkpoint.read(path, where) if path.exists() else None
        except ValueError as error:
            return error

    found: dict[str, Any] | ValueError | None = run.processes.said_by_first(read)
    if isinstance(found, ValueError):
        raise found
    if found is not None:
        run.check(found, path)
    return found


def check(model: nn.Module, task: Task, settings: TrainingSettings) -> None:
    """Check that a network can be trained so, before anything costs.

    Raises:
        ValueError: Naming the setting that does not fit the network, the task or the length of the training.
    """
    if not settings.lr > 0:
        raise ValueError(f"lr: nothing trains at a rate of {settings.lr:g}; give one above 0, or train nothing "
                         "(--epochs 0, in a search also --finalists 0)")  # fmt: skip
    if steps := steps_of(task, settings):
        schedule_of(settings, steps, max(1, batches_of(task, settings).per_epoch // settings.accumulate))
    optimizer_of(model, settings)
    Softening.of(task, model, settings.label_smoothing, settings.mixup, settings.seed)


def steps_of(task: Task, settings: TrainingSettings) -> int:
    """How many optimiser steps `settings.epochs` are.

    Raises:
        ValueError: If there is nothing to train on.
    """
    return _steps(batches_of(task, settings), settings)


def plan_of(
    task: Task, settings: TrainingSettings, compute: Compute, steps: int | None = None
) -> tuple[Plan, Training]:
    """The plan of a training, and its batches.

    Args:
        task: Of the training.
        settings: How it is trained.
        compute: How passes are run.
        steps: Length in optimiser steps, instead of `settings.epochs`.

    Raises:
        ValueError: If there is nothing to train on.
    """
    training = batches_of(task, settings)
    total, per_epoch = _steps(training, settings) if steps is None else steps, training.per_epoch // settings.accumulate
    return Plan(task, settings, compute, total, max(1, per_epoch), training.size), training


def _steps(training: Training, settings: TrainingSettings) -> int:
    return round(settings.epochs * training.per_epoch / settings.accumulate)


def batches_of(task: Task, settings: TrainingSettings) -> Training:
    """The batches that a task is trained on; of few samples all are one batch.

    Raises:
        ValueError: If there are none.
    """
    found = task.training(settings.batch_of(task.count("train")), settings.seed)
    if found.per_epoch < 1:
        raise ValueError(f"training: {task.where('train')} has no samples")
    return found
