"""What one finalist's Tune trial does: fine-tune with checkpoints, say at each rung how good it is, tell the result."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from autoprune.controller import Job
from autoprune.errors import DeviceBroken
from autoprune.workers.attempt import attempt, describe
from autoprune.workers.cluster.payload import Payload
from autoprune.workers.cluster.worker import limit_now, take_share, time_limit

HISTORY = "history.json"  # [steps, metrics] at each rung so far


class Trainer(Protocol):
    """Fine-tunes candidates and keeps their state in a folder."""

    def __call__(self, job: Job, listener: Callable[[int, int, float], None]) -> Mapping[str, Any]:
        """The metrics after the whole training, which begins where the state in the folder ends."""

    def glance(self, job: Job) -> Mapping[str, Any]:
        """The metrics at the step whose state is in the folder."""


def train(
    config: dict[str, Any],
    *,
    coordinator: Any,
    payload: Payload,
    jobs: Mapping[int, tuple[Job, float, str]],
    rungs: tuple[int, ...],
    every: int,
    threads: int,
    scores: tuple[str, ...] = ("loss",),
) -> None:
    """The function that Ray Tune runs, one Tune trial per finalist.

    Args:
        config: "number" of the trial in the ledger.
        coordinator: The actor.
        payload: (device, folder, steps between two states) -> `Trainer`.
        jobs: Number -> the job, the seconds it may take, and a checkpoint of an earlier attempt ("": none).
        rungs: Steps after which it is compared with the others.
        every: Steps between two checkpoints; divides the rungs.
        threads: CPU threads it may use.
        scores: Of the metrics, what a table shows.
    """
    import ray
    from ray import tune

    job, limit_s, start = jobs[config["number"]]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        checkpoint = tune.get_checkpoint() or (tune.Checkpoint(start) if start else None)
        if checkpoint is not None:
            with checkpoint.as_directory() as there:
                shutil.copytree(there, folder, dirs_exist_ok=True)
        history: list[Any] = []
        with suppress(OSError, ValueError):
            history = json.loads((folder / HISTORY).read_text())
        for steps, metrics in history:  # the scheduler may be a new one
            tune.report({"steps": steps, **metrics})
        seen = {steps for steps, _ in history}

        def shown(metrics: Mapping[str, Any]) -> dict[str, Any]:
            return {name: metrics[name] for name in scores if name in metrics}

        def listen(step: int, total: int, loss: float) -> None:
            done = step - 1  # its state is on the disk by now
            if done == 0 or done % every or done in seen or not any(folder.glob("*.pt")):  # none on a full disk
                return
            metrics = {"train_loss": loss, **(shown(trainer.glance(job)) if done in rungs else {})}
            if done in rungs:
                history.append((done, metrics))
                (folder / HISTORY).write_text(json.dumps(history))
            tune.report({"steps": done, **metrics}, checkpoint=tune.Checkpoint.from_directory(folder))

        try:
            trainer: Trainer = payload.unpack()(take_share(threads), str(folder), every)
        except (Exception, SystemExit) as error:  # another version, a lost file: no fault of this candidate
            why = f"on node {ray.util.get_node_ip_address()}: {describe(error)}"
            return ray.get(coordinator.broken.remote(name(job.number), why))  # type: ignore[no-any-return]
        with time_limit(limit_s, partial(limit_now, coordinator, job.number)):
            try:
                result = attempt(lambda job: trainer(job, listen), job)
            except DeviceBroken:
                os._exit(1)  # Tune goes on from the last checkpoint, in another process
        ray.get(coordinator.tell.remote(job.number, result))
        if isinstance(result, dict):
            tune.report({"steps": config["steps"], **shown(result)})


def name(number: int) -> str:
    """What Tune calls the training of this trial, in every attempt."""
    return f"finalist-{number}"
