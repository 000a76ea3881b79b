"""One training by several processes of a cluster: Ray Train's workers, each in the loop that one process runs.

Ray Train restarts them all after a death, from the last state that the first of them has reported.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoprune.compute import same_bits
from autoprune.errors import Diverged, SearchStopped
from autoprune.settings import TrainingSettings
from autoprune.tasks import Task
from autoprune.training import Checkpoints, Method, StepListener, finetune
from autoprune.workers.cluster.environment import same_handlers
from autoprune.workers.cluster.payload import Payload
from autoprune.workers.cluster.reach import Share
from autoprune.workers.memory import keep_few_kernels

STATE = "training.pt"
MAX_DEATHS = 5  # of the workers, until the training is given up; a resume tries as often again
NEWS_S = 0.5  # how often the driver asks how far it is


@dataclass(frozen=True, eq=False)
class Training:
    """What `autoprune.training.finetune` is given: the arguments of the same names; picklable.

    Attributes:
        deterministic: Whether it gives the same bits each time on GPUs, too.
    """

    model: nn.Module
    task: Task
    settings: TrainingSettings
    steps: int
    teacher: nn.Module | None = None
    method: Method | None = None
    deterministic: bool = False


def train_on_cluster(
    training: Training, share: Share, path: Path, *, every: int = 200, listener: StepListener | None = None
) -> None:
    """Train on the cluster that this process is connected to, and leave the state after the last step in a file.

    `finetune` with that file as its checkpoint then takes over the end of it. A training of that file which was
    stopped goes on.

    Args:
        training: What is trained; nothing of it is changed.
        share: How many processes, and what each gets.
        path: Of the file; Ray Train keeps its own beside it, which every node of the cluster must see.
        every: Steps between two states.
        listener: Told how far it is, now and then.

    Raises:
        ValueError: If the training refuses something, as `finetune` does; or part of it cannot be sent.
        Diverged: As `finetune`.
        SearchStopped: If its processes die again and again.
        KeyboardInterrupt: If it was stopped.
    """
    import ray.train.torch
    from ray.train import WorkerGroupError
    from ray.util.queue import Queue

    api: Any = ray.train  # as it is when it runs: type checkers are shown the API before it

    path, news = path.resolve(), Queue(actor_options={"num_cpus": 0})
    own = path.with_suffix(".ray")
    resources = {"CPU": share.cpus, **({"GPU": share.gpus} if share.gpus else {})}
    told = {"payload": Payload.pack(training), "every": every, "threads": share.cpus, "news": news}
    trainer = api.torch.TorchTrainer(
        _train,
        train_loop_config=told,
        scaling_config=api.ScalingConfig(
            num_workers=share.num_workers, use_gpu=bool(share.gpus), resources_per_worker=resources
        ),
        run_config=api.RunConfig(
            name=own.name,
            storage_path=str(own.parent),
            failure_config=api.FailureConfig(max_failures=MAX_DEATHS),
            checkpoint_config=api.CheckpointConfig(num_to_keep=2),
            logging_config=api.LoggingConfig("ERROR"),
        ),
    )
    try:
        with same_handlers(), _listening(news, listener):
            result = trainer.fit()
    except WorkerGroupError as error:
        raise _cause(error) from error
    if isinstance(result.return_value, Diverged):
        raise result.return_value
    if result.checkpoint is None or not result.metrics or result.metrics["step"] < training.steps:
        raise KeyboardInterrupt  # Ray Train stops at the first Ctrl-C, in good order, and says nothing
    with result.checkpoint.as_directory() as there:
        passing = path.with_suffix(".passing")
        shutil.copy(Path(there) / STATE, passing)
        passing.replace(path)
    shutil.rmtree(own, ignore_errors=True)


def _train(config: dict[str, Any]) -> Diverged | None:
    """What each process does."""
    from ray import train
    from ray.train.torch import get_device

    keep_few_kernels()
    torch.set_num_threads(config["threads"])
    training: Training = config["payload"].unpack()
    if training.deterministic:
        same_bits(str(get_device()))
    first = train.get_context().get_world_rank() == 0
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "kept"
        kept.mkdir()
        if found := train.get_checkpoint():
            with found.as_directory() as there:
                shutil.copy(Path(there) / STATE, kept)

        def report(step: int) -> None:
            state = train.Checkpoint.from_directory(str(kept)) if first else None
            train.report({"step": step}, checkpoint=state)

        try:
            finetune(
                training.model,
                training.task.loading(config["threads"]),
                replace(training.settings, device=str(get_device())),
                steps=training.steps,
                teacher=training.teacher,
                method=training.method,
                checkpoints=Checkpoints(kept / STATE, config["every"], told=report),
                listener=(lambda *step: config["news"].put(step)) if first else None,
                check=False,
            )
        except Diverged as error:  # all of them see it: no death to begin again after
            return error
    return None


@contextlib.contextmanager
def _listening(news: Any, listener: StepListener | None) -> Iterator[None]:
    """Passes on how far the training is, for the time of the block."""
    ended = threading.Event()

    def listen() -> None:
        while not ended.wait(NEWS_S):
            with contextlib.suppress(Exception):  # no news
                if steps := news.get_nowait_batch(news.qsize()):
                    listener and listener(*steps[-1])

    thread = threading.Thread(target=listen, name="autoprune-training-news", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(Exception):
            news.shutdown(force=True)


def _cause(error: Any) -> Exception:
    """What the processes of a training died of, in words; an error of the loop itself as it is."""
    failures = list(error.worker_failures.values())
    causes = [getattr(f, "cause", None) or f.__cause__ or f for f in failures]
    for cause in causes:
        if type(cause).__module__.startswith(("autoprune.", "objectives.")) or type(cause) is ValueError:
            return cause  # type: ignore[no-any-return]
    why = " ".join(str(causes[0]).split())[:300] if causes else str(error)[:300]
    return SearchStopped(f"training: its processes on the cluster died {MAX_DEATHS + 1} times, at last of: {why}; "
                         "the state of the last checkpoint is kept: call it again to go on from there")  # fmt: skip
