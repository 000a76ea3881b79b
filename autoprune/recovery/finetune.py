"""Fine-tuning of a pruned network: SGD with Nesterov momentum, seeded, checkpointed, resumed to the same bits.

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
from autoprune.recovery import checkpoint
from autoprune.recovery.batches import dropout
from autoprune.recovery.schedules import SCHEDULES
from autoprune.tasks import Task, as_task, not_finite, num_samples, shapes, split
from objectives.plugins import described

Listener = Callable[[int, int, float], None]  # (steps done, steps in all, training loss of the last step)


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
class _Plan:
    """Everything that decides the outcome; a checkpoint of another plan is refused."""

    steps: int
    learning_rate: float
    schedule: str
    momentum: float
    weight_decay: float
    batch: int
    distill_weight: float
    temperature: float
    seed: int
    data: str
    micro_batches: int = 1


def finetune(
    model: nn.Module,
    task: Task | ImageData,
    *,
    epochs: float | None = None,
    steps: int | None = None,
    learning_rate: float = 0.02,
    schedule: str = "linear",
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    batch: int = 128,
    micro_batches: int = 1,
    distill_from: nn.Module | None = None,
    distill_weight: float = 0.5,
    temperature: float = 4.0,
    seed: int = 0,
    device: str | torch.device = "auto",
    amp: str | bool = "auto",
    checkpoint_path: str | Path | None = None,
    checkpoint_every: int = 200,
    checkpoint_strict: bool = True,
    resume: bool = True,
    listener: Listener | None = None,
) -> TrainingLog:
    """Train `model` in place; the weights of the last step stay, never the best of some test.

    The last, partial batch of an epoch of samples in memory is dropped; a loader's epoch is all that it gives.

    Args:
        model: Moved to the device and left there, in eval mode.
        task: Its training samples, augmented, and its loss.
        epochs: Length, in passes over the training samples (a fraction is fine); or
        steps: length in SGD steps.
        learning_rate: Peak.
        schedule: "linear" (a tenth of warm-up, then down to 0), "cosine" (no warm-up) or "constant", per step.
        momentum: Nesterov's.
        weight_decay: On every parameter.
        batch: Samples per step; a loader's are as it makes them.
        micro_batches: Passes that a batch is split into, whose gradients are added: less memory, the same steps; only
            batch-norm and dropout see the difference.
        distill_from: The dense network, as teacher; None: the plain loss.
        distill_weight: Of the teacher, 0 to 1.
        temperature: Of the distillation.
        seed: Of the order, the crops and flips, and the dropout.
        device: "auto", "cpu", "cuda", ...
        amp: bfloat16 autocast: "auto" (where it is fast), "on" or "off".
        checkpoint_path: File that holds the state every `checkpoint_every` steps and at the end.
        checkpoint_every: Steps.
        checkpoint_strict: Whether a checkpoint that is no use or cannot be written is an error; if not, the training
            begins at the start, or goes on without it.
        resume: Whether to go on from `checkpoint_path` if it exists.
        listener: Told after each step.

    Raises:
        ValueError: If a setting is out of range, or the checkpoint belongs to another training.
        Diverged: If the loss becomes NaN or infinite.
        DiskError: If the checkpoint cannot be written.
    """
    start = time.perf_counter()
    if (epochs is None) == (steps is None):
        raise ValueError("finetune: give either epochs or steps, not both")
    compute = Compute.choose(device, amp)
    task = as_task(task).on(compute)
    training = task.training(batch, seed)
    if training.per_epoch < 1:
        raise ValueError(f"finetune: batch must lie between 1 and the {task.count('train')} training {task.sample}s, "
                         f"got {batch}")  # fmt: skip
    batch = training.size
    total = steps if steps is not None else round((epochs or 0) * training.per_epoch)
    if total < 1 or not learning_rate > 0:
        raise ValueError(f"finetune: needs at least one step at a rate above 0, got {total} steps at {learning_rate}")
    if not 1 <= micro_batches <= batch:
        raise ValueError(f"finetune: micro_batches must lie between 1 and the batch of {batch}, got {micro_batches}")
    if not 0 <= distill_weight <= 1 or not temperature > 0:
        raise ValueError("finetune: distillation needs a weight in 0..1 and a temperature above 0, got "
                         f"{distill_weight} and {temperature}")  # fmt: skip
    if schedule not in SCHEDULES:
        raise ValueError(f"finetune: unknown schedule '{schedule}'; known: {', '.join(SCHEDULES)}")
    plan = _Plan(
        total, learning_rate, schedule, momentum, weight_decay, batch,
        distill_weight if distill_from is not None else 0.0, temperature, seed, task.fingerprint, micro_batches,
    )  # fmt: skip
    run = _Run(model, task, plan, compute, distill_from)
    path = Path(checkpoint_path) if checkpoint_path is not None else None
    if path is not None and resume and path.exists():
        with nullcontext() if checkpoint_strict else suppress(ValueError):
            run.restore(path)
    resumed_from = run.step
    model.train()
    for found in training.between(run.step, total):
        run.advance(found)
        if listener is not None:
            listener(run.step, total, run.losses[-1])
        if path is not None and (run.step % checkpoint_every == 0 or run.step == total):
            with nullcontext() if checkpoint_strict else suppress(DiskError):
                checkpoint.save(path, run.state())
    model.eval()
    seconds = time.perf_counter() - start
    return TrainingLog(total, tuple(run.losses), run.clock.seconds, seconds, resumed_from)

_SHAPES = re.compile(r"\b(shapes?|sizes?|dimensions?|channels) ", re.IGNORECASE)  # torch, of those that do not fit


class _Run:
    """A training under way: what a checkpoint holds."""

    def __init__(
        self, model: nn.Module, task: Task, plan: _Plan, compute: Compute, teacher: nn.Module | None
    ) -> None:
        self.model = compute.place(model)
        trainable = [p for p in model.parameters() if p.requires_grad]
        if not trainable:
            raise ValueError("finetune: no parameter of the model requires a gradient; call model.requires_grad_(True)")
        self.task, self.plan, self.compute = task, plan, compute
        self.teacher = None if teacher is None else compute.place(teacher).eval()
        self.optimizer = torch.optim.SGD(
            trainable, lr=plan.learning_rate, momentum=plan.momentum, nesterov=plan.momentum > 0,
            weight_decay=plan.weight_decay,
        )  # fmt: skip
        self.step = 0
        self.losses: list[float] = []
        self.clock = compute.stopwatch()

    def state(self) -> dict[str, Any]:
        return {
            "plan": asdict(self.plan), "step": self.step, "losses": self.losses, "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }  # fmt: skip

    def restore(self, path: Path) -> None:
        state = checkpoint.read(path, self.compute.device)
        own, found = asdict(self.plan), {"micro_batches": 1, **state.get("plan", {})}  # older ones do not say
        if differing := [f"{k} {found.get(k)!r} instead of {v!r}" for k, v in own.items() if found.get(k) != v]:
            raise ValueError(f"checkpoint '{path}': belongs to another training ({'; '.join(differing)}); delete it or "
                             "give another path")  # fmt: skip
        sizes, there = ({k: v.shape for k, v in d.items()} for d in (self.model.state_dict(), state["model"]))
        if differing := [name for name in {**sizes, **there} if sizes.get(name) != there.get(name)]:
            raise ValueError(f"checkpoint '{path}': belongs to another network (which differs in '{differing[0]}'); "
                             "delete it or give another path")  # fmt: skip
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.losses = state["step"], list(state["losses"])

    def advance(self, batch: Any) -> None:
        """One step."""
        factor = SCHEDULES[self.plan.schedule](self.step, self.plan.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.learning_rate * factor
        loss = float(self._pass(batch))
        if not math.isfinite(loss):
            if not_finite(batch):
                raise ValueError(f"{self.task.where('train')}: the batch of step {self.step + 1} holds NaN or "
                                 "infinity; find out where it comes from, or leave such samples out")  # fmt: skip
            raise Diverged(f"fine-tuning diverged at step {self.step + 1} of {self.plan.steps} (loss {loss}); lower "
                           f"the learning rate of {self.plan.learning_rate}")  # fmt: skip
        self.optimizer.step()
        self.losses.append(loss)
        self.step += 1

    def _pass(self, batch: Any) -> Tensor:
        """Forwards and backwards; the gradients are left on the parameters."""
        self.optimizer.zero_grad()
        parts, whole = split(batch, self.plan.micro_batches), num_samples(batch)
        total = torch.zeros((), device=self.compute.device)
        with dropout(self.plan.seed, self.step, self.compute), torch.enable_grad(), self.clock:
            for part in parts:
                loss = self._loss(part) * (num_samples(part) / whole)
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.detach()
        return total

    def _loss(self, batch: Any) -> Tensor:
        """The mean over some samples, under autocast."""
        with self.compute.autocast():
            try:
                outputs, loss = self.task.evaluate(self.model, batch)
            except (TypeError, ValueError, IndexError, KeyError, RuntimeError) as error:
                if isinstance(error, RuntimeError) and not _SHAPES.search(str(error)):
                    raise  # no memory, a lost device
                raise ValueError(f"{self.task.where('train')}: the batch of step {self.step + 1} ({shapes(batch)}) "
                                 f"does not fit the network or the loss: {described(error)}") from error  # fmt: skip
            loss = loss.float().mean()
            if self.teacher is None:
                return loss
            with torch.no_grad():
                wanted = self.task.call(self.teacher, batch)
            soft = self.task.distance(outputs, wanted, self.plan.temperature)
            return (1 - self.plan.distill_weight) * loss + self.plan.distill_weight * soft
