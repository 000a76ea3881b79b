"""Trainings of a run: in this process (or those that torchrun has started), or by processes on a cluster."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from autoprune.config import RunConfig
from autoprune.settings import TrainingSettings
from autoprune.tasks import Task
from autoprune.training import Checkpoints, Method, StepListener, TrainingLog, finetune
from autoprune.training.loop import batches_of
from autoprune.training.methods import Cut
from autoprune.training.parallel import Processes
from autoprune.workers.cluster import connect
from autoprune.workers.cluster.data_parallel import Training, train_on_cluster


def train(
    config: RunConfig,
    model: nn.Module,
    task: Task,
    *,
    steps: int,
    teacher: nn.Module | None = None,
    method: Method | None = None,
    checkpoint: Path | None = None,
    listener: StepListener | None = None,
) -> TrainingLog:
    """Train a network in place, see `autoprune.training.finetune`.

    Args:
        config: How, and by how many processes of which cluster.
        model: Is trained.
        task: What it is for.
        steps: Optimiser steps.
        teacher: The dense network, if it teaches.
        method: Takes part.
        checkpoint: File that lets it go on after a stop; None: none.
        listener: Told after each step.

    Raises:
        Diverged: If the training loss becomes NaN or infinite.
        SearchStopped: If the processes on the cluster die again and again.
    """
    with _file(config, checkpoint) as path:
        if config.train_workers and path is not None:
            _on_cluster(config, model, task, steps, teacher, method, path, listener)
        kept = None if path is None else Checkpoints(path)
        return finetune(model, task, config, steps=steps, teacher=teacher, method=method, checkpoints=kept,
                        listener=listener, check=False)  # fmt: skip


def _on_cluster(
    config: RunConfig,
    model: nn.Module,
    task: Task,
    steps: int,
    teacher: nn.Module | None,
    method: Method | None,
    path: Path,
    listener: StepListener | None,
) -> None:
    """Bring the training's state to its last step, unless it is there: `finetune` finds nothing left to do."""
    if path.exists():
        return
    settings = TrainingSettings.of(config)
    Processes(size=config.train_workers).check(batches_of(task, settings).size, method or Cut())
    with connect(config.cluster) as cluster:
        share = cluster.share(config.train_workers, config.per_device, config.device, "--train-workers")
        training = Training(model.cpu(), task, settings, steps, teacher, method, config.deterministic)
        train_on_cluster(training, share, path, listener=listener)


@contextlib.contextmanager
def _file(config: RunConfig, checkpoint: Path | None) -> Iterator[Path | None]:
    """The file of the state; one that passes where a cluster needs one and none is kept."""
    if checkpoint is not None or not config.train_workers:
        yield checkpoint
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "training.pt"
