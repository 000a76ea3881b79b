"""`Recipe`: how a worker builds its evaluator, here or in another process."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from autoprune.compute import same_bits
from autoprune.config import RunConfig
from autoprune.config import replace as change
from autoprune.controller import Job
from autoprune.evaluation import EvaluationSettings, Evaluator, Together
from autoprune.evaluation.starts import other_scores
from autoprune.problem import Problem
from autoprune.reference import ModelReference, fingerprint
from autoprune.runs.directory import RunDirectory
from autoprune.runs.prepare import Prepared, load_task
from autoprune.settings import TrainingSettings
from autoprune.tasks import MapStyle, Task, as_task
from autoprune.tasks.streamed import Streamed
from autoprune.workers import Slot, assign_slots, pickled


@dataclass(frozen=True, eq=False)
class Recipe:
    """Picklable. Called with a device, it builds the model and the data there and returns job -> metrics.

    Attributes:
        config: The run's settings.
        problem: Space and scores: the very same in every worker.
        model: The dense network, where the settings do not say how to build it.
        task: What it is for, likewise.
        checkpoints: Folder of the run where candidates that are trained keep their state; "": none.
        weights: Fingerprint that the network must have where it is built; "": any.
        images: Likewise of the data where they are loaded.
        trained: Folder of the run where finalists leave the weights that they were scored with; "": none.
        shared: The task, where its samples are in memory and nobody need load them again; None: they are loaded.
    """

    config: RunConfig
    problem: Problem
    model: nn.Module | None = None
    task: Task | None = None
    checkpoints: str = ""
    weights: str = ""
    images: str = ""
    trained: str = ""
    shared: Task | None = None

    @classmethod
    def of(cls, run: RunDirectory, prepared: Prepared, model: nn.Module | None = None, task: Any = None) -> Recipe:
        """Of a run whose model and task were given as objects, where they were.

        Samples that are in memory go to worker processes as they are: those share them, and would else load them each.
        """
        where: dict[str, Any] = {"checkpoints": str(run.finalists), "trained": str(run.trained)}
        task = None if task is None else as_task(task)
        in_processes = task is None and not run.config.cluster and bool(slots(run.config))
        shared = prepared.task.without("test") if in_processes and _is_shared(prepared.task) else None
        told: dict[str, Any] = {"images": prepared.task.fingerprint, "shared": shared}
        return cls(run.config, prepared.problem, model, task, **told, **where)

    def __post_init__(self) -> None:
        """Leave the distances behind: only strategies read them, and they may be far larger than the network."""
        object.__setattr__(self, "problem", replace(self.problem, distances=None))

    def __call__(self, device: str) -> Callable[[Job], Mapping[str, Any]]:
        """What a worker process calls."""
        model, task = self.build()
        evaluate = self.evaluator(model, task, device)
        return lambda job: evaluate(job.widths, job.fidelity, job.incumbent)

    def build(self) -> tuple[nn.Module, Task]:
        """The dense network and the task, as they are here.

        Raises:
            ValueError: If another network is built here, or other data are loaded.
        """
        config = self.config
        model = self.model or ModelReference(config.model, config.model_args, config.weights).build()
        if self.weights and self.weights != (found := fingerprint(model)):
            raise ValueError(f"the network built here has the weights {found}, where the search was started "
                             f"{self.weights}; give this machine the same code and weights")  # fmt: skip
        task = as_task(self.task or self.shared or load_task(config, test=False))
        threads = torch.get_num_threads()  # this worker's share of the cores: its loaders keep to it, too
        asked = config.data_workers
        task = task.loading(min(asked, threads) if isinstance(asked, int) else threads)
        if self.images and self.images != task.fingerprint:
            raise ValueError(f"data '{task.spec}': a worker loads other samples than the search did; make the "
                             "same data each time (no shuffling, a seed for every random split)")  # fmt: skip
        return model, task

    def evaluator(self, model: nn.Module, task: Task, device: str = "", **other: Any) -> Evaluator:
        """The evaluator of this run, on a device of its own perhaps, and with some other `EvaluationSettings`."""
        settings = replace(self.settings(), device=device or self.config.device, **other)
        if self.config.deterministic:
            same_bits(settings.device)
        others = other_scores(self.problem, self.config.criterion)
        return Evaluator(model, task, self.problem.space, self.problem.scores, settings, others)

    def at_home(self, model: nn.Module, task: Task) -> AtHome:
        """The same for this process, which may have to let go of it."""
        return AtHome(lambda: self.evaluator(model, task))

    @staticmethod
    def several(evaluate: AtHome) -> Callable[[Sequence[Job]], Sequence[Mapping[str, Any] | str]]:
        """What evaluates several jobs of one fidelity together.

        Raises:
            ValueError: If candidates of this network cannot share a pass.
        """
        together = Together(evaluate.made)
        return lambda jobs: together([job.widths for job in jobs], jobs[0].fidelity)

    def settings(self) -> EvaluationSettings:
        """How candidates are scored."""
        config = self.config
        return EvaluationSettings(
            bn_samples=config.bn_samples,
            val_samples=config.val_samples,
            short_steps=config.short_steps,
            reconstruct=config.reconstruct,
            batch_size=config.batch_size,
            training=TrainingSettings.of(config),
            metric=config.metric,
            abandon=config.abandon,
            seed=config.seed,
            device=config.device,
            amp=config.amp,
            checkpoints=self.checkpoints,
            trained=self.trained,
            finals=config.schedule.fidelities[0] if config.finalists else "",
        )


class AtHome:
    """The evaluator of this process: made when it is needed, gone while others need its memory.

    Args:
        make: Makes it.
    """

    def __init__(self, make: Callable[[], Evaluator]) -> None:
        self._make = make
        self._made: Evaluator | None = None

    @property
    def made(self) -> Evaluator:
        """It."""
        if self._made is None:
            self._made = self._make()
        return self._made

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """See `Evaluator`."""
        return self.made(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Whatever else it has."""
        return getattr(self.made, name)

    def let_go(self, *, over: bool = False) -> None:
        """Give the memory of an accelerator back to workers; that of a CPU only when the search is over."""
        if self._made is not None and (over or self._made.compute.device.type != "cpu"):
            self._made = None
            gc.collect()
            torch.cuda.empty_cache()


def _is_shared(task: Task) -> bool:
    """Whether it lies in memory, and can be sent."""
    if not isinstance(task, MapStyle) or any(isinstance(part, Streamed) for part in task.parts.values()):
        return False
    try:
        return bool(pickled(task))
    except ValueError:
        return False


def slots(config: RunConfig) -> tuple[Slot, ...]:
    """Where the worker processes of a run live; none: candidates are evaluated in this process.

    Raises:
        ValueError: If the workers, their devices and their number per device do not fit together.
    """
    if not (config.workers or config.devices or config.per_device):
        return ()
    devices = config.devices or (config.device,)
    return assign_slots(config.workers, devices, config.per_device)


def at_home(config: RunConfig) -> RunConfig:
    """The settings with what this process does itself on the first of the devices that are named.

    Raises:
        ValueError: As `slots`.
    """
    if config.cluster or not config.devices or config.device != "auto":
        return config
    return change(config, device=slots(config)[0].device)
