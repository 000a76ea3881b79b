"""Evaluates in child processes, one per worker; each may be killed, hang or crash without harm to the search."""

from __future__ import annotations

import math
import os
import pickle
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait

from autoprune.controller import Job, Listener, SearchController
from autoprune.errors import SearchStopped
from autoprune.workers.child import BROKEN, DEAD, READY, Child, MakeEvaluator

MAX_FALSE_STARTS = 3  # times that a child may be killed before it is ready
PATIENCE_S = 5.0  # for a child to end by itself


def run_processes(
    controller: SearchController,
    make_evaluator: MakeEvaluator,
    num_workers: int,
    devices: Sequence[str] = ("cpu",),
    timeout_s: float | Callable[[Job], float] = math.inf,
    listener: Listener | None = None,
) -> None:
    """Run a search to its end.

    A child that dies is replaced and its candidate tried again, at most three times.

    Args:
        controller: Of the search; no other worker may be at it.
        make_evaluator: device -> (job -> metrics), called once in each child; picklable.
        num_workers: How many children.
        devices: Shared out in turn.
        timeout_s: A child that takes longer over one candidate is killed. A function is asked again and again.
        listener: Is told what happens.

    Raises:
        SearchStopped: If an evaluator cannot be built, or too many candidates fail in a row.
        ValueError: If `make_evaluator` cannot be sent to another process, or there are no workers or devices.
    """
    if num_workers < 1 or not devices:
        raise ValueError(f"workers: need at least one worker and one device, got {num_workers} and {list(devices)}")
    controller.listener = listener or controller.listener
    pool = _Pool(pickled(make_evaluator), num_workers, devices, timeout_s)
    try:
        for index in range(num_workers):
            pool.spawn(index)
        while pool.offer(controller):
            pool.listen(controller)
        pool.dismiss()
    finally:
        for child in pool.children.values():
            child.end()


class _Pool:
    """The children that live, by index."""

    def __init__(
        self, recipe: bytes, num_workers: int, devices: Sequence[str], timeout_s: float | Callable[[Job], float]
    ) -> None:
        self.children: dict[int, Child] = {}
        self._recipe, self._devices, self._timeout_s = recipe, devices, timeout_s
        self._started: dict[int, tuple[Job, float]] = {}  # what each child that works has got, and when
        self._false_starts = 0
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        limit = os.environ.get("OMP_NUM_THREADS", "")
        self._threads = max(1, min(cores // num_workers, int(limit) if limit.isdecimal() else cores))

    def spawn(self, index: int) -> None:
        """Start a child, or its successor."""
        device = self._devices[index % len(self._devices)]
        self.children[index] = Child(f"worker-{index}", self._recipe, device, self._threads)

    def offer(self, controller: SearchController) -> bool:
        """Give every idle child a job, if there is one; False when the search is over."""
        for index, child in self.children.items():
            if child.ready and child.job is None:
                job = controller.ask(child.name)
                if job is None:
                    return False
                if isinstance(job, Job):
                    child.work(job)
                    self._started[index] = job, time.monotonic()
        return True

    def listen(self, controller: SearchController) -> None:
        """Wait until a child says something, dies, or is out of time; pass it on."""
        ends = [end for child in self.children.values() for end in (child.pipe, child.sentinel)]
        left_s = min((self._left_s(index) for index in self._started), default=math.inf)
        heard = wait(ends, None if left_s == math.inf else max(0.0, left_s))
        for index, child in list(self.children.items()):
            if child.pipe in heard or child.sentinel in heard:
                kind, what = child.hear()
                if kind == BROKEN:
                    raise SearchStopped(f"{child.name} ({child.device}): the evaluator cannot be built: {what}")
                if kind == DEAD:
                    self._replace(index, controller, child.end(PATIENCE_S))
                elif kind == READY:
                    child.ready, self._false_starts = True, 0
                elif child.job is not None:
                    job, child.job = child.job, None
                    del self._started[index]
                    controller.tell(child.name, job.number, what)
            elif index in self._started and self._left_s(index) <= 0:
                waited_s = time.monotonic() - self._started[index][1]
                child.end()
                self._replace(index, controller, f"no answer within {waited_s:.0f} s")

    def _left_s(self, index: int) -> float:
        """Seconds that a child at work still has."""
        job, started = self._started[index]
        limit_s = self._timeout_s(job) if callable(self._timeout_s) else self._timeout_s
        return started + limit_s - time.monotonic()

    def dismiss(self) -> None:
        """Let all children go."""
        for child in self.children.values():
            child.work(None)
        for child in self.children.values():
            child.end(PATIENCE_S if child.ready else 0.0)

    def _replace(self, index: int, controller: SearchController, how: str) -> None:
        child = self.children[index]
        self._started.pop(index, None)
        if not child.ready:
            self._false_starts += 1
            if not how.startswith("was killed") or self._false_starts >= MAX_FALSE_STARTS:
                raise SearchStopped(
                    f"{child.name} ({child.device}): its process {how} before it was ready; its own output is above. "
                    "(A script that starts workers must do so under `if __name__ == '__main__':`.)"
                )
        controller.lost(child.name, how)
        self.spawn(index)


def pickled(make_evaluator: MakeEvaluator) -> bytes:
    """What is sent to the children.

    Raises:
        ValueError: If it cannot be sent to another process.
    """
    try:
        return pickle.dumps(make_evaluator)
    except Exception as error:  # each type has its own way to refuse
        raise ValueError(
            f"workers: the evaluator cannot be sent to another process ({error}); "
            "give the model (and a metric of your own) as 'package.module:function', or use one worker"
        ) from error
