"""A worker in a process of its own: the parent's handle on it, and what the process does."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing as mp
import multiprocessing.process
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from autoprune.controller import Job
from autoprune.errors import DeviceBroken
from autoprune.failures import device_broken, out_of_memory
from autoprune.workers.attempt import Evaluate, attempt, describe
from autoprune.workers.memory import give_back, keep_few_kernels
from autoprune.workers.pickle_file import PickleFile
from autoprune.workers.slots import Slot, allowed

MakeEvaluator = Callable[[str], Evaluate]
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
READY, BROKEN, RESULT, LOST, DEAD = "ready", "broken", "result", "lost", "dead"
KILLED_S = 10.0  # for a killed process to be gone; one that is stuck in a driver never is
DEAF = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # reach every process of a group; only the parent is to act


class Child:
    """A spawned process that builds its evaluator once and then evaluates job after job.

    Args:
        name: Of the worker.
        recipe: Holds `make_evaluator(device)`.
        slot: Where it evaluates, and how much it may take there.
    """

    def __init__(self, name: str, recipe: PickleFile, slot: Slot) -> None:
        self.name, self.device = name, slot.device
        self.job: Job | None = None
        self.ready = self.is_stuck = False
        self.pipe, end = mp.get_context("spawn").Pipe()
        self._process = mp.get_context("spawn").Process(
            target=_serve, args=(end, recipe, slot), name=f"autoprune-{name}"
        )
        with _birth(slot.threads):
            self._process.start()
        end.close()  # the child has the only other one now: its death is the end of file here
        self.sentinel, self.pid = self._process.sentinel, self._process.pid or 0

    def work(self, job: Job | None) -> None:
        """Send a job, or None to let the child go. If it is dead, `hear` will say so."""
        self.job = job
        with contextlib.suppress(OSError):
            self.pipe.send(job)

    def hear(self) -> tuple[str, Any]:
        """What it has said last.

        Returns:
            (READY, None); (BROKEN, (why, whether another try may do better)): no evaluator could be built; (RESULT,
            metrics or why not); (LOST, why): its device is broken and it ends; or (DEAD, None).
        """
        with contextlib.suppress(EOFError, OSError):
            if self.pipe.poll():
                return self.pipe.recv()  # type: ignore[no-any-return]
        return DEAD, None

    def end(self, patience_s: float = 0.0) -> str:
        """Wait for it to end, then kill it; returns how it ended."""
        self._process.join(patience_s)
        self._process.kill()
        self._process.join(KILLED_S)
        self.pipe.close()
        code = self._process.exitcode
        if code is None:
            self.is_stuck = True
            mp.process._children.discard(self._process)  # type: ignore[attr-defined]  # else waited for at exit
            return "cannot be killed"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"


@contextlib.contextmanager
def _birth(threads: int) -> Iterator[None]:
    """What a child inherits: its share of threads (read when torch is imported), deafness to Ctrl-C and the like.

    Ctrl-C at a terminal, and what ends a service or a job of a cluster, reach every process; only the parent is to act.
    (Blocked here, it is only delayed; the resource tracker is started first, because its start unblocks it.)
    """
    resource_tracker.ensure_running()
    values = dict.fromkeys(THREADS, str(threads))
    before = {name: os.environ.get(name) for name in values}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, DEAF)
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _serve(pipe: Connection, recipe: PickleFile, slot: Slot) -> None:
    """The life of a child."""
    for number in DEAF:
        signal.signal(number, signal.SIG_IGN)
    _die_with_parent()
    try:
        _take_share(slot)
        evaluate = recipe.open()(slot.device)
    except (Exception, SystemExit) as error:
        pipe.send((BROKEN, (describe(error), out_of_memory(error) or device_broken(error))))
        return
    pipe.send((READY, None))
    with contextlib.suppress(EOFError, OSError):  # the parent is gone
        while (job := pipe.recv()) is not None:
            try:
                pipe.send((RESULT, attempt(evaluate, job)))
            except DeviceBroken as error:
                pipe.send((LOST, str(error)))
                os._exit(1)  # at once: to take a broken device down in good order may hang, or abort with a core dump
            give_back()


def _take_share(slot: Slot) -> None:
    """Keep to the slot."""
    import torch

    keep_few_kernels()
    torch.set_num_threads(slot.threads)
    device = torch.device(slot.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # what names no device means this one: a seed, a context
        torch.cuda.set_per_process_memory_fraction(allowed(slot.share, *torch.cuda.mem_get_info(device)), device)


def _die_with_parent() -> None:
    """End with the parent, whatever it dies of and whatever runs here."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: by the kernel, even inside a long C call
    parent = mp.parent_process()
    if parent is not None:  # everywhere; and if it died before the line above

        def watch() -> None:
            wait([parent.sentinel])
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()
