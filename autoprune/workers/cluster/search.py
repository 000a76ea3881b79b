"""One search on a cluster, from the driver's side: a coordinator, workers that Ray Tune starts, the news passed on."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from autoprune.controller import SearchCallback
from autoprune.errors import SearchStopped
from autoprune.workers.attempt import Evaluate
from autoprune.workers.cluster.coordinator import News, Search, start_coordinator
from autoprune.workers.cluster.environment import reason, reporter, tune_environment
from autoprune.workers.cluster.finalists import Finals, tune_finalists
from autoprune.workers.cluster.payload import Payload
from autoprune.workers.cluster.reach import Share
from autoprune.workers.cluster.worker import work

NEWS_S = 0.5  # how often the driver asks for news
GOODBYES_S = 10.0  # how long the last rows of the workers are waited for


def run_cluster(
    open_search: Callable[[], Search],
    make_evaluator: Callable[[str], Evaluate],
    share: Share,
    storage: str | Path,
    *,
    listener: SearchCallback | None = None,
    finals: Finals | None = None,
    callbacks: Sequence[Any] = (),
    table: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Run a search to its end on the cluster that this process is connected to.

    Nobody else may hold the ledger: the coordinator opens it, and has closed it when this returns.

    Args:
        open_search: Opens the ledger and makes the controller; picklable.
        make_evaluator: device -> (job -> metrics), called once in each worker; sent to each node once.
        share: How many workers, and what each gets.
        storage: Where Tune keeps its own files.
        listener: Is told what finishes.
        finals: How finalists are fine-tuned; None: the workers evaluate all that `open_search` orders.
        callbacks: Of `ray.tune`, for Weights & Biases, MLflow ...
        table: Whether Tune prints its table, one row per worker.
        say: Where to tell what the user should know of the database.

    Raises:
        SearchStopped: If an evaluator cannot be built, too many candidates fail in a row, or the cluster is lost.
        LedgerUnwritable: If the ledger is lost; everything told before is safe.
        KeyboardInterrupt: If it was stopped; it can be resumed.
    """
    import ray

    storage = Path(storage).resolve()
    with _lost_in_words(), running_coordinator(open_search, listener, say) as coordinator:
        in_finals = finals is not None and ray.get(coordinator.in_finals.remote())
        if not in_finals:
            _run_workers(coordinator, make_evaluator, share, storage, callbacks, table)
        if finals is not None and (in_finals or ray.get(coordinator.is_over.remote())):
            while tune_finalists(coordinator, finals, share, storage, callbacks, table):
                pass


def _run_workers(
    coordinator: Any,
    make_evaluator: Callable[[str], Evaluate],
    share: Share,
    storage: Path,
    callbacks: Sequence[Any],
    table: bool,
) -> None:
    """One Tune trial per worker, until the coordinator has nothing left."""
    from ray import tune

    trainable = tune.with_parameters(
        work, coordinator=coordinator, payload=Payload.pack(make_evaluator), threads=share.cpus
    )
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": share.cpus, "gpu": share.gpus}),
        param_space={"worker": tune.grid_search([f"worker-{i}" for i in range(share.num_workers)])},
        tune_config=tune.TuneConfig(trial_name_creator=_name, trial_dirname_creator=_name),
        run_config=tune.RunConfig(
            name="workers",
            storage_path=str(storage),
            failure_config=tune.FailureConfig(max_failures=-1),
            callbacks=[_watch(coordinator), *callbacks],
            stop=_when_over(coordinator),
            progress_reporter=reporter(latest="candidate", candidates="count", best_loss="best loss"),
            verbose=1 if table else 0,
        ),
    )
    with tune_environment():
        tuner.fit()


@contextlib.contextmanager
def _lost_in_words() -> Iterator[None]:
    """What Ray raises when the head, or all of the cluster, is gone."""
    import ray

    try:
        yield
    except ray.exceptions.RayTaskError:  # an error of ours, in an actor
        raise
    except (ray.exceptions.RayError, ConnectionError) as error:
        what = " ".join(str(error).split())[:300]
        raise SearchStopped(
            f"the cluster is lost ({type(error).__name__}: {what}); every trial that was told is kept: resume the run "
            "when it is back, or elsewhere (--cluster)"
        ) from error


@contextlib.contextmanager
def running_coordinator(
    open_search: Callable[[], Search], listener: SearchCallback | None, say: Callable[[str], None]
) -> Iterator[Any]:
    """A coordinator for the time of the block; its news go to the listener, its error is raised here."""
    import ray

    coordinator = start_coordinator(open_search)
    try:
        first: News = ray.get(coordinator.news.remote())
        if first.error is not None:
            raise first.error
        with _listening(coordinator, listener, len(first.trials), say):
            yield coordinator
        last: News = ray.get(coordinator.news.remote())
        if last.error is not None:
            raise last.error
        if not last.over:  # Tune stops at the first Ctrl-C, in good order, and says nothing
            raise KeyboardInterrupt
    finally:
        with contextlib.suppress(Exception):  # the cluster may be gone; the ledger has all that was told
            ray.get(coordinator.close.remote(), timeout=30)
            ray.kill(coordinator)


@contextlib.contextmanager
def _listening(
    coordinator: Any, listener: SearchCallback | None, since: int, say: Callable[[str], None]
) -> Iterator[None]:
    """Tells the listener what finishes during the block, and the user what he should know."""
    import ray

    ended = threading.Event()

    def listen() -> None:
        seen, heard, last = since, 0, False
        while not last:
            last = ended.wait(NEWS_S)
            with contextlib.suppress(Exception):  # no news: the coordinator is being made again
                news: News = ray.get(coordinator.news.remote(seen), timeout=10)
                for line in news.said[heard:]:
                    say(line)
                heard = len(news.said)
                for trial in news.trials:
                    seen += 1
                    if listener is not None:
                        listener.on_told(trial)

    thread = threading.Thread(target=listen, name="autoprune-news", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _name(trial: Any) -> str:
    return str(trial.config["worker"])


def _watch(coordinator: Any) -> Any:
    """A callback that tells the coordinator who died: a worker that never comes back must not keep its job."""
    import ray
    from ray import tune

    class DeathCallback(tune.Callback):  # type: ignore[misc]
        """Waits for the coordinator's answer: the successor is started only then."""

        def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            ray.get(coordinator.died.remote(_name(trial), reason(trial)))

        on_trial_error = on_trial_recover

    return DeathCallback()


def _when_over(coordinator: Any) -> Any:
    """A stopper: without it, Tune would wait for workers that find no place any more."""
    import time

    import ray
    from ray import tune

    class Over(tune.Stopper):  # type: ignore[misc]
        """Asks the coordinator, not too often; leaves the workers some seconds for their last rows."""

        def __init__(self) -> None:
            self._asked, self._stop = 0.0, False
            self._over_at: float | None = None

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            if not self._stop and time.monotonic() - self._asked > NEWS_S:
                with contextlib.suppress(ray.exceptions.GetTimeoutError):
                    self._stop = self._ask()
                self._asked = time.monotonic()
            return self._stop

        def _ask(self) -> bool:
            if not ray.get(coordinator.is_over.remote(), timeout=10):
                return False
            self._over_at = self._over_at or time.monotonic()
            late = time.monotonic() - self._over_at > GOODBYES_S
            return late or bool(ray.get(coordinator.is_empty.remote(), timeout=10))

    return Over()
