"""Evaluates in child processes, one per worker; each may be killed, hang or crash without harm to the search."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait

from autoprune.controller import Job, SearchCallback, SearchController
from autoprune.errors import SearchStopped
from autoprune.workers.child import BROKEN, DEAD, LOST, READY, Child, MakeEvaluator
from autoprune.workers.pickle_file import PickleFile
from autoprune.workers.slots import Slot, assign_slots, free_memory, in_free_memory

MAX_FALSE_STARTS = 3  # times that a child may be killed before it is ready
PATIENCE_S = 5.0  # for a child to end by itself


def run_processes(
    controller: SearchController,
    make_evaluator: MakeEvaluator,
    slots: int | Sequence[Slot],
    timeout_s: float | Callable[[Job], float] = math.inf,
    listener: SearchCallback | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Run a search to its end.

    A child that dies, or whose device breaks, is replaced and its candidate tried again, at most three times. Where no
    successor can be started the search goes on with the others.

    Args:
        controller: Of the search; no other worker may be at it.
        make_evaluator: device -> (job -> metrics), called once in each child; picklable.
        slots: Where each child lives; a number: so many, on every GPU or on the CPU.
        timeout_s: A child that takes longer over one candidate is killed. A function is asked again and again.
        listener: Is told what happens.
        say: Is told of workers that are given up.

    Raises:
        SearchStopped: If an evaluator cannot be built, no worker is left, or too many candidates fail in a row.
        ValueError: If `make_evaluator` cannot be sent to another process, or there are no workers.
    """
    slots = assign_slots(slots) if isinstance(slots, int) else slots
    if not slots:
        raise ValueError("workers: need at least one, got 0; without worker processes, evaluate in this one")
    controller.listener = listener or controller.listener
    pool = _Pool(PickleFile(make_evaluator), in_free_memory(slots, free_memory), timeout_s, say)
    try:
        for index in range(len(slots)):
            pool.spawn(index)
        while pool.offer(controller):
            pool.listen(controller)
        pool.dismiss()
    except KeyboardInterrupt:  # no candidate is to blame, and other controllers need not wait for the dead
        with contextlib.suppress(Exception):
            for child in pool.children.values():
                controller.release(child.name)
        raise
    finally:
        for child in pool.children.values():
            child.end()
        pool.recipe.close()


class _Pool:
    """The children that live, by index."""

    def __init__(
        self,
        recipe: PickleFile,
        slots: Sequence[Slot],
        timeout_s: float | Callable[[Job], float],
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.children: dict[int, Child] = {}
        self.recipe, self._slots, self._timeout_s, self._say = recipe, slots, timeout_s, say
        self._started: dict[int, tuple[Job, float]] = {}  # what each child that works has got, and when
        self._false_starts: dict[int, int] = {}  # in a row
        self._proven: set[int] = set()  # where a child was ready once: what is given and how it is started are in order

    def spawn(self, index: int) -> None:
        """Start a child, or its successor."""
        self.children[index] = Child(f"worker-{index}", self.recipe, self._slots[index])

    def offer(self, controller: SearchController) -> bool:
        """Give every idle child a job, if there is one; False when the search is over."""
        for index, child in self.children.items():
            if child.ready and child.job is None:
                job = controller.ask(child.name)
                if job is None:
                    return False
                if not isinstance(job, Job):
                    break  # the others would hear the same
                child.work(job)
                self._started[index] = job, time.monotonic()
        return True

    def listen(self, controller: SearchController) -> None:
        """Wait until a child says something, dies, or is out of time; pass it on."""
        ends = [end for child in self.children.values() for end in (child.pipe, child.sentinel)]
        left_s = min((self._left_s(index) for index in self._started), default=math.inf)
        if any(child.ready and child.job is None for child in self.children.values()):
            left_s = min(left_s, controller.poll_s)
        heard = wait(ends, None if left_s == math.inf else max(0.0, left_s))
        for index, child in list(self.children.items()):
            if child.pipe in heard or child.sentinel in heard:
                kind, what = child.hear()
                if kind == BROKEN:
                    child.end(PATIENCE_S)
                    why, is_chance = what
                    self._give_up(index, f"the evaluator cannot be built: {why}", is_chance)
                elif kind == LOST:
                    child.end(PATIENCE_S)
                    self._replace(index, controller, what)
                elif kind == DEAD:
                    self._replace(index, controller, child.end(PATIENCE_S))
                elif kind == READY:
                    child.ready, self._false_starts[index] = True, 0
                    self._proven.add(index)
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
        """Start the successor of a child that has ended, if that makes sense."""
        child = self.children[index]
        self._started.pop(index, None)
        if child.ready:
            controller.lost(child.name, how)
            if child.is_stuck and child.device != "cpu":
                return self._give_up(index, f"{how}; its process cannot be killed and blocks the device")
        else:
            self._false_starts[index] = self._false_starts.get(index, 0) + 1
            killed = how.startswith("was killed")
            if self._false_starts[index] >= MAX_FALSE_STARTS or not killed:
                text = f"its process {how} before it was ready; its own output is above"
                return self._give_up(index, text + self._hint(index, how), is_chance=killed or child.is_stuck)
        self.spawn(index)

    def _give_up(self, index: int, why: str, is_chance: bool = False) -> None:
        """Go on without a worker, if others are left; what could not be started even once is a mistake of the user's.

        Args:
            index: Of the worker, whose child has ended.
            why: There is no successor.
            is_chance: Whether it would come about even if all that was given is right.
        """
        child = self.children.pop(index)
        text = f"{child.name} ({child.device}): {why}"
        if not self.children or not (is_chance or index in self._proven):
            raise SearchStopped(f"{text}; all finished trials are safe: resume when the cause is removed")
        self._say(f"{text}; the search goes on without it, with {len(self.children)} of {len(self._slots)} workers")

    def _hint(self, index: int, how: str) -> str:
        """What often is behind a child that does not start."""
        if "SIGKILL" in how:
            return ". (The system kills like this when memory runs out; fewer workers need less.)"
        if how.startswith("exited") and index not in self._proven:
            return ". (A script that starts workers must do so under `if __name__ == '__main__':`.)"
        return ""
