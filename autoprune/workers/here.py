"""Evaluates in this process."""

from __future__ import annotations

import contextlib
import math
import time

from autoprune.controller import Job, Listener, SearchController
from autoprune.errors import DeviceBroken, SearchStopped
from autoprune.workers.attempt import Evaluate, attempt
from autoprune.workers.memory import give_back

MAX_DEATHS = 5  # a candidate that kills this process cannot be told from a kill from outside: it gets more chances


def run_here(
    controller: SearchController, evaluate: Evaluate, worker: str = "here", listener: Listener | None = None
) -> None:
    """Run a search to its end.

    Args:
        controller: Of the search; no other worker may be at it.
        evaluate: Job -> metrics; what it raises fails the candidate.
        worker: Name in the ledger.
        listener: Is told what happens.

    Raises:
        SearchStopped: If too many candidates fail in a row, or the device is lost to this process.
    """
    controller.listener = listener or controller.listener
    if worker in controller.in_flight:  # it had a job when the process ended, and did not let go of it in good order
        controller.lost(worker, "the process of the search died", MAX_DEATHS)
    try:
        while (job := controller.ask(worker)) is not None:
            if isinstance(job, Job):
                controller.tell(worker, job.number, attempt(evaluate, job))
                give_back()
            elif controller.poll_s == math.inf:
                others = sorted(controller.in_flight.values())
                raise RuntimeError(f"trials {others} run in other workers; `run_here` is alone")
            else:
                time.sleep(controller.poll_s)
    except DeviceBroken as error:
        controller.lost(worker, str(error), MAX_DEATHS)
        raise SearchStopped(f"{error}; all finished trials are safe: resume, in a new process") from error
    except BaseException:  # Ctrl-C, a full disk: the candidate is not to blame
        with contextlib.suppress(Exception):
            controller.release(worker)
        raise
