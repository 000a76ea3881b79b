"""Evaluates in this process."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from autoprune.controller import Job, SearchCallback, SearchController
from autoprune.errors import DeviceBroken, SearchStopped
from autoprune.ledger import plain
from autoprune.workers.attempt import Evaluate, attempt
from autoprune.workers.memory import give_back

Several = Callable[[Sequence[Job]], Sequence[Mapping[str, Any] | str]]
MAX_DEATHS = 5  # a candidate that kills this process cannot be told from a kill from outside: it gets more chances


def run_here(
    controller: SearchController,
    evaluate: Evaluate,
    worker: str = "here",
    listener: SearchCallback | None = None,
    several: Several | None = None,
    together: int = 1,
) -> None:
    """Run a search to its end.

    Args:
        controller: Of the search; no other worker may be at it.
        evaluate: Job -> metrics; what it raises fails the candidate.
        worker: Name in the ledger.
        listener: Is told what happens.
        several: Jobs -> metrics of each, or why it has none; what it raises has them evaluated one by one.
        together: How many jobs it is given at most.

    Raises:
        SearchStopped: If too many candidates fail in a row, or the device is lost to this process.
    """
    controller.listener = listener or controller.listener
    names = [worker, *(f"{worker}-{i}" for i in range(1, together if several else 1))]
    for name in names:
        if name in controller.in_flight:  # it had a job when the process ended, and did not let go of it in good order
            controller.lost(name, "the process of the search died", MAX_DEATHS)
    try:
        while True:
            jobs, last = _asked(controller, names)
            if jobs:
                for name, job, result in _evaluated(jobs, evaluate, several):
                    controller.tell(name, job.number, result)
                give_back()
            elif last is None:
                return
            elif controller.poll_s == math.inf:
                others = sorted(controller.in_flight.values())
                raise RuntimeError(f"trials {others} run in other workers; `run_here` is alone")
            else:
                time.sleep(controller.poll_s)
    except DeviceBroken as error:
        for name in names:
            controller.lost(name, str(error), MAX_DEATHS)
        raise SearchStopped(f"{error}; all finished trials are safe: resume, in a new process") from error
    except BaseException:  # Ctrl-C, a full disk: the candidate is not to blame
        with contextlib.suppress(Exception):
            for name in names:
                controller.release(name)
        raise


def _asked(controller: SearchController, names: Sequence[str]) -> tuple[list[tuple[str, Job]], object]:
    """A job for each name, as long as there is one, and the answer after the last of them."""
    jobs: list[tuple[str, Job]] = []
    for name in names:
        answer = controller.ask(name)
        if not isinstance(answer, Job):
            return jobs, answer
        jobs.append((name, answer))
    return jobs, jobs


def _evaluated(
    jobs: Sequence[tuple[str, Job]], evaluate: Evaluate, several: Several | None
) -> Iterator[tuple[str, Job, Mapping[str, Any] | str]]:
    """Their results: of those at one fidelity together where that goes, else one by one."""
    for fidelity in dict.fromkeys(job.fidelity for _, job in jobs):
        alike = [(name, job) for name, job in jobs if job.fidelity == fidelity]
        found: Sequence[Mapping[str, Any] | str] = ()
        if several is not None and len(alike) > 1:
            with contextlib.suppress(Exception):  # whose it is shows when each is evaluated by itself
                found = [r if isinstance(r, str) else plain(dict(r)) for r in several([job for _, job in alike])]
        for i, (name, job) in enumerate(alike):
            yield name, job, found[i] if found else attempt(evaluate, job)
