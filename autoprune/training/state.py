"""A training under way: what a checkpoint holds, and how it comes one step further."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.errors import Diverged
from autoprune.graphs import capture_on
from autoprune.tasks import Portion, Share, Softening, fitting, mapped, not_finite, num_samples, split
from autoprune.tasks.given import check_gradient
from autoprune.training.averaging import Average
from autoprune.training.captured import CapturedPass
from autoprune.training.checkpoint import unlike
from autoprune.training.dropout import dropout
from autoprune.training.methods import Cut, Method, Plan, Step
from autoprune.training.methods.method import follow
from autoprune.training.optimisers import optimizer_of
from autoprune.training.parallel import Processes
from autoprune.training.rescaling import rescale
from autoprune.training.schedules import in_cycles

PLACES = ("epochs", "device", "cuda_graphs", "batch_size", "distill")  # settings that do not decide, or said otherwise


class TrainingState:
    """A training under way.

    Args:
        model: Is trained in place.
        plan: The training.
        micro_batches: Passes that a batch is split into.
        teacher: Of distillation; None: there is none.
        method: Takes part.

    Raises:
        ValueError: If a setting does not fit the model or the task.
    """

    def __init__(
        self, model: nn.Module, plan: Plan, micro_batches: int, teacher: nn.Module | None, method: Method
    ) -> None:
        settings = plan.settings
        self.plan, self.micro_batches, self.method = plan, micro_batches, method
        self.processes = processes = Processes.here()
        processes.check(plan.batch, method)
        self.share = Share(processes.rank, processes.size, bool(plan.settings.mixup))
        self.model = plan.compute.place(model)
        processes.agree_on(model)
        self.teacher = None if teacher is None else plan.compute.place(teacher).eval()
        self._factor = in_cycles(settings, plan.steps, plan.per_epoch, method.cycles())
        self._optimizer = optimizer_of(model, settings)
        self._parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        self._soften = Softening.of(plan.task, model, settings.label_smoothing, settings.mixup, settings.seed)
        self._average = Average(model, settings.ema) if settings.ema else None
        self._captured = self._capture()
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
            **{name: str(value) if isinstance(value, (str, dict)) else value for name, value in settings.items()},
            "batch": plan.batch,
            "micro_batches": self.micro_batches,
            "distill": plan.settings.distill if self.teacher is not None else 0.0,
            "data": plan.task.fingerprint,
            "method": self.method.name,
            **{f"{self.method.name} {name}": value for name, value in self.method.settings().items()},
        }

    def state(self) -> dict[str, Any]:
        """All that the rest of the training follows from."""
        return {
            "plan": self.identity,
            "step": self.step,
            "skipped": self.plan.task.skipped(),
            "losses": self.losses,
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "average": self._average.state() if self._average else {},
            "method": dict(self.method.state()),
        }

    def check(self, state: Mapping[str, Any], path: Path) -> None:
        """Refuse a checkpoint that this training cannot go on from, before anything is changed.

        Raises:
            ValueError: If it is of another training.
        """
        own, found = self.identity, state.get("plan", {})
        if differing := [f"{k} {found.get(k)!r} instead of {v!r}" for k, v in own.items() if found.get(k) != v]:
            raise ValueError(f"checkpoint '{path}': belongs to another training ({'; '.join(differing)}); delete it or "
                             "give another path")  # fmt: skip
        first = self.state()
        if missing := [name for name in first if name not in state]:
            raise ValueError(f"checkpoint '{path}': has no '{missing[0]}', so another version wrote it; delete it "
                             "to train from the start")  # fmt: skip
        sizes, there = ({k: v.shape for k, v in d["model"].items()} for d in (first, state))
        if differing := [name for name in {**sizes, **there} if sizes.get(name) != there.get(name)]:
            raise ValueError(f"checkpoint '{path}': belongs to another network (which differs in '{differing[0]}'); "
                             "delete it or give another path")  # fmt: skip
        if why := unlike(first["average"], state["average"]):
            raise ValueError(f"checkpoint '{path}': its average of the weights does not fit ({why}); delete it to "
                             "train from the start")  # fmt: skip
        if why := unlike(first["method"], state["method"]):
            raise ValueError(self._not_its_own(path, why))

    def _not_its_own(self, path: Path, why: str) -> str:
        return (f"checkpoint '{path}': what it holds of method '{self.method.name}' does not fit ({why}), so it was "
                "written by another version of it, or while other groups could be pruned; delete it to train from the "
                "start")  # fmt: skip

    def restore(self, state: Mapping[str, Any], path: Path) -> None:
        """Go on from a checkpoint that fits, see `check`.

        Raises:
            ValueError: If the method cannot.
        """
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._average:
            self._average.load(state["average"])
        device = self.plan.compute.device
        try:
            self.method.load(mapped(lambda v: v.to(device) if isinstance(v, Tensor) else v, state["method"]))
        except Exception as error:
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ValueError(self._not_its_own(path, why)) from error
        self.step, self.losses = state["step"], list(state["losses"])
        self.plan.task.leave_out(state["skipped"])

    @property
    def is_over(self) -> bool:
        """Whether there is no further step."""
        return self.step >= self.plan.steps or self.method.is_over

    def unite(self) -> None:
        """All processes know of the damaged samples that any of them has left out."""
        self.plan.task.leave_out(self.processes.united(self.plan.task.skipped()))

    def rescale(self, batches: Iterable[Any]) -> None:
        """Before the first step: every weight times a factor that is learnt (`rescaling`), in all processes.

        Raises:
            ValueError: If this network cannot be rescaled.
        """
        plan = self.plan
        with dropout(plan.settings.seed, 0, plan.compute, 0), torch.enable_grad():
            rescale(self.model, plan.task, batches)
        self.processes.agree_on(self.model)

    def advance(self, portions: Sequence[Portion]) -> None:
        """One step.

        Args:
            portions: What this process has of its batches, whose gradients are averaged.

        Raises:
            Diverged: If the loss is not a number.
            ValueError: If a batch does not fit the network, or holds NaN.
        """
        plan, settings = self.plan, self.plan.settings
        for group in self._optimizer.param_groups:
            group["lr"] = settings.lr * self._factor(self.step, plan.steps)
        self._optimizer.zero_grad()
        place = (plan.compute, self.processes.rank)
        with dropout(settings.seed, self.step, *place), torch.enable_grad(), self.clock:
            step, loss, more = self._passes(portions)
            more += self.method.after_backward(self.model, step)
        total = float(loss) + more
        if not math.isfinite(total):
            if self.processes.any(any(not_finite(p.batch) for p in portions), plan.compute.device):
                raise ValueError(f"{plan.task.where('train')}: the batch of step {self.step + 1} holds NaN or "
                                 "infinity; find out where it comes from, or leave such samples out")  # fmt: skip
            own = ", ".join(f"{name} {value}" for name, value in self.method.settings().items())
            also = f", or change what method '{self.method.name}' is told ({own})" if own else ""
            raise Diverged(f"training diverged at step {self.step + 1} of {plan.steps} (loss {total}); lower "
                           f"the learning rate of {settings.lr:g}{also}")  # fmt: skip
        if settings.clip:
            nn.utils.clip_grad_norm_(self._parameters, settings.clip)
        self._optimizer.step()
        self.processes.average_buffers(self.model)
        self.method.after_step(self.model, step)
        if self._average:
            self._average.update(self.model)
        self.losses.append(total)
        self.step += 1
        if self.step % plan.per_epoch == 0:
            self.method.end_epoch(self.model, self.step // plan.per_epoch - 1)

    def end(self) -> None:
        """After the last step: what is delivered stands in the model."""
        plan = self.plan
        self.model.eval()
        if self._average:
            self._average.deliver(self.model, plan.task, plan.settings.seed, plan.batch, plan.compute)
        self.method.end(self.model)

    def _capture(self) -> CapturedPass | None:
        """What runs a step of one pass, in one process, as one CUDA graph; None: that is not asked for."""
        compute = self.plan.compute
        one = self.plan.settings.accumulate == self.micro_batches == self.processes.size == 1
        where = capture_on(compute.device) if compute.graphs and one and type(self.method) is Cut else None
        if where is None:
            return None
        return CapturedPass(lambda batch: self._loss(batch, cached=False)[1], self._parameters, where)

    def _passes(self, portions: Sequence[Portion]) -> tuple[Step, Tensor, float]:
        """Forwards and backwards; the gradients are left on the parameters."""
        if self._captured is not None:
            batch = portions[0].own(partial(self._soften, step=self.step) if self._soften else None)
            if (loss := self._captured(batch)) is not None:
                return Step(self.step, ()), loss, 0.0
        whole, total = sum(portion.whole for portion in portions), torch.zeros((), device=self.plan.compute.device)
        passes = []
        for number, portion in enumerate(portions, self.step * len(portions)):
            own = portion.own(partial(self._soften, step=number) if self._soften else None)
            for part in () if own is None else split(own, self.micro_batches):
                share = num_samples(part) / whole
                answers, found = self._loss(part)
                loss = found * share
                check_gradient(self.plan.task.where("loss"), loss)
                loss.backward()
                total += loss.detach()
                passes.append((part, answers, share))
        step = Step(self.step, tuple(passes))
        more = self.method.passes(self.model, step)
        if (penalty := self.method.penalty(self.model, step)) is not None:
            total += follow(penalty / self.processes.size)  # each has the whole of it
        if self.processes.size > 1:
            total, more = self.processes.add_gradients(self._parameters, total + more), 0.0
        return step, total, more

    def _loss(self, batch: Any, cached: bool = True) -> tuple[Any, Tensor]:
        """Answers, and the mean loss over some samples, under autocast."""
        task, settings = self.plan.task, self.plan.settings
        with self.plan.compute.autocast(cached):
            with fitting(task, "train", batch, f"the batch of step {self.step + 1}"):
                outputs, loss = task.evaluate(self.model, batch)
            loss = loss.float().mean()
            if self.teacher is None:
                return outputs, loss
            with torch.no_grad():
                wanted = task.call(self.teacher, batch)
            soft = task.distance(outputs, wanted, settings.temperature)
            return outputs, (1 - settings.distill) * loss + settings.distill * soft
