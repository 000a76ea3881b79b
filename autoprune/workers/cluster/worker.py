"""What a worker does, wherever Ray has put it: ask, evaluate, tell, until the search is over."""

from __future__ import annotations

import faulthandler
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from autoprune.controller import Job
from autoprune.errors import DeviceBroken
from autoprune.failures import device_broken, out_of_memory
from autoprune.workers.attempt import Evaluate, attempt, describe
from autoprune.workers.cluster.coordinator import Result
from autoprune.workers.cluster.payload import Payload
from autoprune.workers.memory import give_back, keep_few_kernels
from autoprune.workers.slots import MEMORY, allowed

REPORT_S = 2.0  # a row of Tune's table is renewed at most so often: each report waits for the driver
AGAIN_S = 20.0  # between two questions for a limit that is not known yet
FOREVER_S = 1e8  # a limit beyond it is none
PAUSES_S = (0.01, 1.0)  # the first and the longest pause of a worker that has nothing to do


def work(config: dict[str, Any], *, coordinator: Any, payload: Payload, threads: int) -> None:
    """The function that Ray Tune runs, one Tune trial per worker.

    Args:
        config: "worker" is its name.
        coordinator: The actor.
        payload: device -> (job -> metrics).
        threads: CPU threads it may use.
    """
    import ray
    from ray import tune

    worker, latest, count, best, told = config["worker"], -1, 0, math.inf, time.monotonic()
    if not ray.get(coordinator.hello.remote(worker)):
        return
    try:
        evaluate: Evaluate = payload.unpack()(take_share(threads))
    except (Exception, SystemExit) as error:
        why = f"on node {ray.util.get_node_ip_address()}: {describe(error)}"
        is_chance = out_of_memory(error) or device_broken(error)
        return ray.get(coordinator.broken.remote(worker, why, is_chance))  # type: ignore[no-any-return]
    ray.get(coordinator.ready.remote(worker))

    def row() -> dict[str, Any]:
        return {"worker": worker, "latest": latest, "candidates": count, "best_loss": best}

    number, pause_s = -1, PAUSES_S[0]
    result: Result = ""
    while True:
        job, limit_s = ray.get(coordinator.exchange.remote(worker, number, result))
        if job is None:
            break
        if not isinstance(job, Job):
            number = -1
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSES_S[1])
            continue
        with time_limit(limit_s, partial(limit_now, coordinator, job.number)):
            try:
                result = attempt(evaluate, job)
            except DeviceBroken as error:
                ray.get(coordinator.breaks.remote(worker, str(error)))
                os._exit(1)  # Tune starts another process; to take a broken device down in good order may hang
        give_back()
        number = latest = job.number
        count, pause_s = count + 1, PAUSES_S[0]
        if isinstance(result, dict) and not result.get("abandoned"):
            best = min(best, float(result.get("loss", math.inf)))
        if time.monotonic() - told > REPORT_S:
            tune.report(row())
            told = time.monotonic()
    tune.report(row())  # returns when the driver has it
    ray.get(coordinator.goodbye.remote(worker))


def take_share(threads: int) -> str:
    """Take the share that Ray gave: the threads, and the GPU with this worker's part of its memory; keep few kernels.

    Returns:
        The device.
    """
    import ray
    import torch

    keep_few_kernels()
    limit = os.environ.get("OMP_NUM_THREADS", "")  # the user's, or else Ray's: the cores that it has reserved
    torch.set_num_threads(max(1, min(threads, int(limit) if limit.isdecimal() else threads)))
    if not ray.get_gpu_ids():
        return "cpu"
    share = ray.get_runtime_context().get_assigned_resources().get("GPU", 1.0)
    if share < 1:
        torch.cuda.set_per_process_memory_fraction(allowed(MEMORY * share, *torch.cuda.mem_get_info(0)), 0)
    return "cuda:0"  # Ray shows each worker only its own


@contextmanager
def time_limit(limit_s: float, ask: Callable[[], float]) -> Iterator[None]:
    """Ends this process if the block takes longer: by a thread in C, which needs no lock that a hung call holds.

    Args:
        limit_s: Seconds; beyond `FOREVER_S`: not known yet.
        ask: Seconds from the block's beginning as they are known by now, asked again and again until there are
            some. (A first candidate that hangs with the interpreter's lock is not noticed: nothing here runs then.)
    """
    ended, begin = threading.Event(), time.monotonic()

    def arm(limit_s: float) -> bool:
        if not 0 < limit_s < FOREVER_S:
            return False
        left_s = begin + limit_s - time.monotonic()
        faulthandler.dump_traceback_later(max(left_s, 0.1), exit=True, file=2)
        return True

    def watch() -> None:
        while not ended.wait(AGAIN_S):
            with suppress(Exception):  # the coordinator is being made again
                if arm(ask()):
                    return

    thread = None if arm(limit_s) else threading.Thread(target=watch, name="autoprune-limit", daemon=True)
    if thread:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if thread:
            thread.join()
        faulthandler.cancel_dump_traceback_later()


def limit_now(coordinator: Any, number: int) -> float:
    """The seconds that a job may take, as its coordinator knows by now."""
    import ray

    return float(ray.get(coordinator.limit_s.remote(number), timeout=10))
