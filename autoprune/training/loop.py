"""The one training loop: seeded, checkpointed, resumed to the same bits, with hooks for methods that prune meanwhile.

All randomness comes from the seed and the number of the step or epoch (see `tasks.Training`): nothing random is stored.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.compute import Compute
from autoprune.data import ImageData
from autoprune.errors import Diverged
from autoprune.files import DiskError
from autoprune.settings import TrainingSettings
from autoprune.tasks import Task, Training, as_task, not_finite, num_samples, shapes, split
from autoprune.training import checkpoint
from autoprune.training.dropout import dropout
from autoprune.training.methods import Cut, Method, Plan, Step
from autoprune.training.schedules import SCHEDULES
from objectives.plugins import described

StepListener = Callable[[int, int, float], None]  # (steps done, steps in all, training loss of the last step)
PLACES = ("epochs", "device", "batch_size", "distill")  # of the settings: not what decides, or said otherwise
_SHAPES = re.compile(r"\b(shapes?|sizes?|dimensions?|channels) ", re.IGNORECASE)  # torch, of those that do not fit


@dataclass(frozen=True)
class TrainingLog:
    """What a training did.

    Attributes:
        steps: Steps in all.
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
    """

    path: Path
    every: int = 200
    strict: bool = True
    resume: bool = True

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

    Raises:
        ValueError: If a setting does not fit the task or the network, or the checkpoint belongs to another training.
        Diverged: If the loss becomes NaN or infinite.
        DiskError: If the checkpoint cannot be written.
    """
    start = time.perf_counter()
    settings = TrainingSettings.of(settings or TrainingSettings())
    compute = Compute.choose(settings.device, settings.amp)
    task = as_task(task).on(compute)
    training = _batches(task, settings)
    batch = training.size
    total = steps if steps is not None else round(settings.epochs * training.per_epoch)
    if total < 1 or not settings.lr > 0:
        raise ValueError(f"training: needs at least one step at a rate above 0, got {total} steps at {settings.lr}")
    if not 1 <= micro_batches <= batch:
        raise ValueError(f"training: micro_batches must lie between 1 and the batch of {batch}, got {micro_batches}")
    plan = Plan(task, settings, compute, total, training.per_epoch, batch)
    run = _Run(model, plan, micro_batches, teacher if settings.distill else None, method or Cut())
    if checkpoints is not None and checkpoints.resume and checkpoints.path.exists():
        with nullcontext() if checkpoints.strict else suppress(ValueError):
            run.restore(checkpoints.path)
    resumed_from = run.step
    for found in training.between(run.step, total):
        run.advance(found)
        if listener is not None:
            listener(run.step, total, run.losses[-1])
        if checkpoints is not None and (run.step % checkpoints.every == 0 or run.step == total):
            with nullcontext() if checkpoints.strict else suppress(DiskError):
                checkpoint.save(checkpoints.path, run.state())
    run.end()
    seconds = time.perf_counter() - start
    return TrainingLog(total, tuple(run.losses), run.clock.seconds, seconds, resumed_from)


def steps_of(task: Task, settings: TrainingSettings) -> int:
    """How many optimiser steps `settings.epochs` are.

    Raises:
        ValueError: If there is nothing to train on.
    """
    return round(settings.epochs * _batches(task, settings).per_epoch)


def _batches(task: Task, settings: TrainingSettings) -> Training:
    found = task.training(min(settings.batch_size, task.count("train")), settings.seed)
    if found.per_epoch < 1:
        raise ValueError(f"training: {task.where('train')} has no samples")
    return found


class _Run:
    """A training under way: what a checkpoint holds."""

    def __init__(
        self, model: nn.Module, plan: Plan, micro_batches: int, teacher: nn.Module | None, method: Method
    ) -> None:
        self.model = plan.compute.place(model)
        trainable = [p for p in model.parameters() if p.requires_grad]
        if not trainable:
            raise ValueError("training: no parameter of the model requires a gradient; call model.requires_grad_(True)")
        self.plan, self.micro_batches, self.method = plan, micro_batches, method
        self.teacher = None if teacher is None else plan.compute.place(teacher).eval()
        settings = plan.settings
        self.optimizer = torch.optim.SGD(
            trainable, lr=settings.lr, momentum=settings.momentum, nesterov=settings.momentum > 0,
            weight_decay=settings.weight_decay,
        )  # fmt: skip
        self.factor = schedule_of(settings)
        self.step = 0
        self.losses: list[float] = []
        self.clock = plan.compute.stopwatch()
        model.train()
        method.begin(model, plan)

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that decides the outcome; a checkpoint of another training is refused."""
        plan = self.plan
        settings = {name: value for name, value in asdict(plan.settings).items() if name not in PLACES}
        return {
            "steps": plan.steps,
            **settings,
            "batch": plan.batch,
            "micro_batches": self.micro_batches,
            "distill": plan.settings.distill if self.teacher is not None else 0.0,
            "data": plan.task.fingerprint,
            "method": self.method.name,
            **{f"{self.method.name} {name}": value for name, value in self.method.settings().items()},
        }

    def state(self) -> dict[str, Any]:
        return {
            "plan": self.identity, "step": self.step, "losses": self.losses, "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(), "method": dict(self.method.state()),
        }  # fmt: skip

    def restore(self, path: Path) -> None:
        state = checkpoint.read(path, self.plan.compute.device)
        own, found = self.identity, state.get("plan", {})
        if differing := [f"{k} {found.get(k)!r} instead of {v!r}" for k, v in own.items() if found.get(k) != v]:
            raise ValueError(f"checkpoint '{path}': belongs to another training ({'; '.join(differing)}); delete it or "
                             "give another path")  # fmt: skip
        sizes, there = ({k: v.shape for k, v in d.items()} for d in (self.model.state_dict(), state["model"]))
        if differing := [name for name in {**sizes, **there} if sizes.get(name) != there.get(name)]:
            raise ValueError(f"checkpoint '{path}': belongs to another network (which differs in '{differing[0]}'); "
                             "delete it or give another path")  # fmt: skip
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.method.load(state["method"])
        self.step, self.losses = state["step"], list(state["losses"])

    def advance(self, batch: Any) -> None:
        """One step."""
        plan = self.plan
        for group in self.optimizer.param_groups:
            group["lr"] = plan.settings.lr * self.factor(self.step, plan.steps)
        self.optimizer.zero_grad()
        with dropout(plan.settings.seed, self.step, plan.compute), torch.enable_grad(), self.clock:
            step, loss = self._passes(batch)
            more = self.method.after_backward(self.model, step)
        total = float(loss) + more
        if not math.isfinite(total):
            if not_finite(batch):
                raise ValueError(f"{plan.task.where('train')}: the batch of step {self.step + 1} holds NaN or "
                                 "infinity; find out where it comes from, or leave such samples out")  # fmt: skip
            raise Diverged(f"training diverged at step {self.step + 1} of {plan.steps} (loss {total}); lower "
                           f"the learning rate of {plan.settings.lr:g}")  # fmt: skip
        self.optimizer.step()
        self.method.after_step(self.model, step)
        self.losses.append(total)
        self.step += 1
        if self.step % plan.per_epoch == 0:
            self.method.end_epoch(self.model, self.step // plan.per_epoch - 1)

    def end(self) -> None:
        """After the last step."""
        self.model.eval()
        self.method.end(self.model)

    def _passes(self, batch: Any) -> tuple[Step, Tensor]:
        """Forwards and backwards; the gradients are left on the parameters."""
        parts, whole = split(batch, self.micro_batches), num_samples(batch)
        total = torch.zeros((), device=self.plan.compute.device)
        passes = []
        for part in parts:
            share = num_samples(part) / whole
            answers, found = self._loss(part)
            loss = found * share
            loss.backward()
            total += loss.detach()
            passes.append((part, answers, share))
        step = Step(self.step, tuple(passes))
        if (more := self.method.penalty(self.model, step)) is not None:
            more.backward()
            total += more.detach()
        return step, total

    def _loss(self, batch: Any) -> tuple[Any, Tensor]:
        """Answers, and the mean loss over some samples, under autocast."""
        task, settings = self.plan.task, self.plan.settings
        with self.plan.compute.autocast():
            try:
                outputs, loss = task.evaluate(self.model, batch)
            except (TypeError, ValueError, IndexError, KeyError, RuntimeError) as error:
                if isinstance(error, RuntimeError) and not _SHAPES.search(str(error)):
                    raise  # no memory, a lost device
                raise ValueError(f"{task.where('train')}: the batch of step {self.step + 1} ({shapes(batch)}) "
                                 f"does not fit the network or the loss: {described(error)}") from error  # fmt: skip
            loss = loss.float().mean()
            if self.teacher is None:
                return outputs, loss
            with torch.no_grad():
                wanted = task.call(self.teacher, batch)
            soft = task.distance(outputs, wanted, settings.temperature)
            return outputs, (1 - settings.distill) * loss + settings.distill * soft


def schedule_of(settings: TrainingSettings) -> Callable[[int, int], float]:
    """(step, steps) -> factor of the peak learning rate.

    Raises:
        ValueError: If there is no such schedule.
    """
    if settings.lr_schedule not in SCHEDULES:
        raise ValueError(f"lr_schedule: unknown '{settings.lr_schedule}'; known: {', '.join(SCHEDULES)}")
    return SCHEDULES[settings.lr_schedule]
