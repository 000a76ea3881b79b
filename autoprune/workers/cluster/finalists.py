"""Finalists on a cluster: few, long, checkpointed trainings are what Tune's own trials and ASHA are made for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoprune.controller import Job
from autoprune.labels import LOSS, Score
from autoprune.workers.cluster.coordinator import MAX_DEATHS, Search
from autoprune.workers.cluster.environment import reason, reporter, tune_environment
from autoprune.workers.cluster.payload import Payload
from autoprune.workers.cluster.reach import Share
from autoprune.workers.cluster.trainer import Trainer, name, train


@dataclass(frozen=True)
class Finals:
    """How the finalists are fine-tuned.

    Attributes:
        open_search: Opens the ledger with a controller that also orders finalists; picklable.
        make_trainer: (device, folder, steps between two states) -> `Trainer`; picklable.
        steps: SGD steps of the whole training.
        rungs: 1: all are trained to the end; with more, half of those that come to a rung are stopped there, the first
            time after `steps / 2 ** (rungs - 1)` (asynchronous successive halving, Li et al. 2020,
            https://arxiv.org/abs/1810.05934).
        score: What Tune's table shows beside the loss.
    """

    open_search: Callable[[], Search]
    make_trainer: Callable[[str, str, int], Trainer]
    steps: int
    rungs: int = 1
    score: Score = LOSS

    @property
    def milestones(self) -> tuple[int, ...]:
        """Steps of the rungs below the last."""
        first = max(1, self.steps // 2 ** (self.rungs - 1))
        steps = (first * 2**k for k in range(self.rungs - 1))
        return tuple(step for step in steps if step < self.steps)

    @property
    def every(self) -> int:
        """Steps between two checkpoints."""
        return self.milestones[0] if self.milestones else max(1, self.steps // 4)


def tune_finalists(
    coordinator: Any, finals: Finals, share: Share, storage: Path, callbacks: Sequence[Any] = (), table: bool = False
) -> bool:
    """Fine-tune all finalists that the ledger asks for; what was begun before goes on from its last checkpoint.

    Returns:
        Whether there were any.

    Raises:
        KeyboardInterrupt: If Tune was stopped in the middle.
    """
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    payload = Payload.pack(finals.open_search)
    asked: list[tuple[Job, float]] = ray.get(coordinator.finalists.remote(payload))
    if not asked:
        return False
    columns = {"loss": "loss", finals.score.name: finals.score.label}
    attempts = len(list(storage.glob("finalists-*")))
    jobs = {job.number: (job, limit_s, _last_checkpoint(storage, job.number)) for job, limit_s in asked}
    trainable = tune.with_parameters(
        train, coordinator=coordinator, payload=Payload.pack(finals.make_trainer), jobs=jobs, rungs=finals.milestones,
        every=finals.every, threads=share.cpus, scores=(*columns,),
    )  # fmt: skip
    numbers = tune.grid_search(sorted(jobs))
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": share.cpus, "gpu": share.gpus}),
        param_space={"number": numbers, "steps": finals.steps},
        tune_config=tune.TuneConfig(
            scheduler=ASHAScheduler(
                time_attr="steps",
                metric="loss",
                mode="min",
                max_t=finals.steps,
                grace_period=finals.milestones[0] if finals.milestones else finals.steps,
                reduction_factor=2,
            ),
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name=f"finalists-{attempts}",
            storage_path=str(storage),
            failure_config=tune.FailureConfig(max_failures=MAX_DEATHS - 1),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=2),
            callbacks=[_ends(coordinator, finals.steps, (*columns, "steps")), *callbacks],
            progress_reporter=reporter(steps="steps", **columns),
            verbose=1 if table else 0,
        ),
    )
    with tune_environment():
        tuner.fit()
    if ray.get(coordinator.num_waiting.remote(sorted(jobs))):
        raise KeyboardInterrupt
    return True


def _name(trial: Any) -> str:
    return name(trial.config["number"])


def _last_checkpoint(storage: Path, number: int) -> str:
    """The newest whole checkpoint of an earlier attempt; "" if there is none."""
    found = sorted(storage.glob(f"finalists-*/{name(number)}/checkpoint_*/*.pt"), key=lambda p: p.stat().st_mtime)
    return str(found[-1].parent) if found else ""


def _ends(coordinator: Any, steps: int, told: tuple[str, ...]) -> Any:
    """A callback that tells the coordinator who was stopped at a rung, and who has failed for good."""
    import ray
    from ray import tune

    class Ends(tune.Callback):  # type: ignore[misc]
        """Waits for the coordinator's answer. A trial that has told its own result keeps it: the first answer wins."""

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            last = trial.last_result or {}
            if "loss" in last and last["steps"] < steps:
                result = {k: last[k] for k in told if k in last} | {"abandoned": True}
                ray.get(coordinator.tell.remote(trial.config["number"], result))

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            why = f"its fine-tune ended {MAX_DEATHS} times in the middle, at last: {reason(trial)}"
            ray.get(coordinator.tell.remote(trial.config["number"], why))

    return Ends()
