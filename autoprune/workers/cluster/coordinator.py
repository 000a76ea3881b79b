"""The coordinator: the controller as an actor, which workers on any machine ask and tell.

It opens the ledger itself and holds nothing that the ledger does not say. One that was killed is therefore made again
by Ray, anywhere in a search, and goes on; a call that it did not answer is simply repeated.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from autoprune.controller import MAX_DEATHS as MAX_DEATHS
from autoprune.controller import WAIT, Job, SearchController
from autoprune.errors import RunIsLive, SearchStopped
from autoprune.ledger import Ledger
from autoprune.problem import Trial, TrialState
from autoprune.schedule import Wait
from autoprune.workers.cluster.payload import Payload

MAX_FALSE_STARTS = 3  # times in a row that a worker may die before it is ready
PATIENCE_S = 60.0  # for the ledger's lock: a head keeps the coordinator of a killed `ray://` driver for 30 s

Result = Mapping[str, Any] | str


@dataclass(frozen=True)
class Search:
    """What a coordinator runs.

    Attributes:
        ledger: Open for writing.
        controller: On it.
        limit_s: Job -> seconds after which a worker is taken for hung.
    """

    ledger: Ledger
    controller: SearchController
    limit_s: Callable[[Job], float]


@dataclass(frozen=True)
class News:
    """What has happened at a coordinator.

    Attributes:
        trials: Finished since, in the order they finished.
        over: Whether the search is over.
        error: Why, if not in good order.
        said: What the user should know of the database, all of it.
    """

    trials: list[Trial]
    over: bool
    error: Exception | None
    said: tuple[str, ...] = ()


class Coordinator:
    """Answers workers until the search is over; every call may be repeated.

    Args:
        open_search: Opens the ledger and makes the controller.
        again: Whether one of the same search was here before and died: what is in flight then belongs to workers that
            live, and is not handed to others. Else it belonged to workers that went with their driver, which no
            candidate kills: nobody is blamed.
    """

    def __init__(self, open_search: Callable[[], Search], again: bool = False) -> None:
        self._told: list[Trial] = []
        self._said: list[str] = []
        self._jobs: dict[int, Job] = {}  # what is in hand, by number
        self._error: Exception | None = None
        self._over = False
        self._ready: set[str] = set()
        self._here: set[str] = set()  # who has come, and has not been given up
        self._proven: set[str] = set()  # who was ready once: what was given and how it is started are in order
        self._given_up: set[str] = set()
        self._false_starts: dict[str, int] = {}  # in a row
        try:
            self._begin(_opened(open_search))
            ended = sorted((e for e in self._search.ledger.entries if e.order >= 0), key=lambda e: e.order)
            self._told += [e.trial for e in ended]
            if again:
                self._search.controller.keep_owners()
            else:
                self._release_all()
        except Exception as error:  # told by `news`: an actor whose constructor fails would be made again for ever
            self._stop(error)

    def hello(self, worker: str) -> bool:
        """A worker process starts; what an earlier one of this name had in hand, it lost.

        Returns:
            Whether it is to go on: not where those before it could not be started.
        """
        self._lose(worker, "its process died")
        if worker in self._given_up:
            return False
        self._here.add(worker)
        return True

    def ready(self, worker: str) -> None:
        """Its evaluator is built."""
        self._ready.add(worker)
        self._proven.add(worker)
        self._false_starts[worker] = 0

    def goodbye(self, worker: str) -> None:
        """It has nothing more to do, and Tune has its last row."""
        self._ready.discard(worker)

    def broken(self, worker: str, why: str, is_chance: bool = False) -> None:
        """Its evaluator cannot be built: that stops the search, unless that is chance (memory) and there are others."""
        self._give_up(worker, f"the evaluator cannot be built: {why}", is_chance)

    def breaks(self, worker: str, why: str) -> None:
        """Its device is broken and its process ends: its job waits for the next one."""
        self._lose(worker, why)
        self._ready.add(worker)  # it was, when Tune says that it died

    def died(self, worker: str, why: str) -> None:
        """A worker's process ended where it should not. If that happens again and again before it is ready: no more."""
        started = worker in self._ready
        self._lose(worker, why)
        if started or worker in self._given_up:
            return
        self._false_starts[worker] = self._false_starts.get(worker, 0) + 1
        if self._false_starts[worker] >= MAX_FALSE_STARTS:
            text = f"died {MAX_FALSE_STARTS} times before it was ready, at last: {why}"
            self._give_up(worker, f"{text}; its log is in Ray's session directory", True)

    def exchange(self, worker: str, number: int = -1, result: Result = "") -> tuple[Job | Wait | None, float]:
        """Take a result (none: -1) and hand out the next job, with the seconds it may take.

        Returns:
            The job; WAIT: ask again later; None: the search is over.
        """
        self._ready.add(worker)
        self._here.add(worker)
        if self._over:
            return None, 0.0
        controller = self._search.controller
        try:
            if number >= 0:
                controller.tell(worker, number, result)
            job = controller.ask(worker)
        except Exception as error:  # the ledger cannot be written, too many failures: the driver says so
            self._stop(error)
            return None, 0.0
        if isinstance(job, Job):
            self._jobs[job.number] = job
            return job, self._search.limit_s(job)
        self._over = job is None
        return (None if job is None else WAIT), 0.0

    def limit_s(self, number: int) -> float:
        """The seconds that a job may take, as they are known by now; infinite after the coordinator was made again."""
        return self._search.limit_s(self._jobs[number]) if number in self._jobs and self._error is None else math.inf

    def in_finals(self) -> bool:
        """Whether finalists were in training when the run was stopped."""
        if self._error is not None or not (trials := self._search.ledger.trials):
            return False
        return any(t.state is TrialState.RUNNING and t.fidelity != trials[0].fidelity for t in trials)

    def finalists(self, payload: Payload) -> list[tuple[Job, float]]:
        """All finalists that are to be trained, with the seconds each may take; none: the search is over.

        Args:
            payload: Opens the search with a controller that orders them.
        """
        if self._error is not None:
            return []
        jobs: list[tuple[Job, float]] = []
        self._over = False
        try:
            self._search.ledger.close()
            self._begin(payload.unpack()())
            while isinstance(job := self._search.controller.ask(finalist(len(jobs))), Job):
                jobs.append((job, self._search.limit_s(job)))
                self._jobs[job.number] = job
        except Exception as error:
            self._stop(error)
            return []
        self._over = job is None
        return jobs

    def num_waiting(self, numbers: list[int]) -> int:
        """How many of these trials have not finished."""
        if self._error is not None:
            return 0
        return sum(self._search.ledger.trials[n].state is TrialState.RUNNING for n in numbers)

    def tell(self, number: int, result: Result) -> None:
        """Take a result from whoever has the job, without a new one."""
        if not self._over:
            try:
                worker = next((w for w, n in self._search.controller.in_flight.items() if n == number), "")
                self._search.controller.tell(worker, number, result)
            except Exception as error:
                self._stop(error)

    def news(self, since: int = 0) -> News:
        """What has happened after the first `since` finished trials."""
        return News(self._told[since:], self._over, self._error, tuple(self._said))

    def is_over(self) -> bool:
        """Whether there is nothing left to ask for."""
        return self._over

    def is_empty(self) -> bool:
        """Whether nobody is to be waited for: all have said goodbye, or died, or the search has failed."""
        return self._error is not None or not self._ready

    def close(self) -> None:
        """Nobody works any more: what is in hand is blamed on nobody, and the ledger is free for the next one."""
        self._over = True
        if hasattr(self, "_search"):
            try:
                self._release_all()
            finally:
                self._search.ledger.close()

    def on_asked(self, job: Job) -> None:
        """Nothing to remember."""

    def on_told(self, trial: Trial) -> None:
        """A trial has finished."""
        self._told.append(trial)
        self._jobs.pop(trial.number, None)

    def _begin(self, search: Search) -> None:
        self._search = search
        search.controller.listener = self
        search.ledger.hear(self._said.append)

    def _release_all(self) -> None:
        for worker in self._search.controller.in_flight:
            self._search.controller.release(worker)

    def _lose(self, worker: str, why: str) -> None:
        """The job of a dead worker waits for the next one; whoever says so second changes nothing."""
        self._ready.discard(worker)
        if not self._over and worker in self._search.controller.in_flight:
            try:
                self._search.controller.lost(worker, why)
                self._search.controller.release(worker)
            except Exception as error:
                self._stop(error)

    def _give_up(self, worker: str, why: str, is_chance: bool) -> None:
        """Go on without a worker, if others are left; what could not be started even once is the user's mistake."""
        self._here.discard(worker)
        self._given_up.add(worker)
        if not self._here or not (is_chance or worker in self._proven):
            self._stop(SearchStopped(f"{worker}: {why}"))
        else:
            self._said.append(f"{worker}: {why}; the search goes on without it")

    def _stop(self, error: Exception) -> None:
        self._over, self._error = True, self._error or error


def finalist(index: int) -> str:
    """The worker that fine-tunes the finalist of this rank."""
    return f"finalist-{index}"


def _opened(open_search: Callable[[], Search]) -> Search:
    """The search; that of a driver that was killed a moment ago may take half a minute to let go of the ledger."""
    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            return open_search()
        except RunIsLive:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.5)


def start_coordinator(open_search: Callable[[], Search]) -> Any:
    """The coordinator, an actor on the node of the driver (the run's directory is there), made again if it dies."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    class Actor(Coordinator):
        """The same, which knows whether it was here before."""

        def __init__(self, payload: Payload) -> None:
            again = ray.get_runtime_context().was_current_actor_reconstructed
            super().__init__(lambda: payload.unpack()(), again)

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options: dict[str, Any] = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    return ray.remote(**options)(Actor).remote(Payload.pack(open_search))
