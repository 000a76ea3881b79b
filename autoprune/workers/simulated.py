"""Evaluates nothing: the real controller, ledger and strategy on a simulated clock, with a thousand workers in seconds.

The losses come from a table or a formula, the time from an event queue. The controller serves one worker at a time, as
the real one does: whoever comes while it is at work stands in line, so one that is too slow shows as idle workers.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from autoprune.controller import Job, SearchController
from autoprune.workers.attempt import Evaluate, attempt
from autoprune.workers.simulation import NONE, Faults, Simulation

T = TypeVar("T")
READY, DONE, DEAD = range(3)  # kinds of events


def simulate(
    controller: SearchController,
    evaluate: Evaluate,
    workers: Sequence[float],
    seconds: float | Callable[[Job], float] = 4.0,
    *,
    seed: int = 0,
    faults: Faults = NONE,
    timeout_s: float = math.inf,
    controller_s: float | None = 0.0,
    clock: Callable[[], float] = time.perf_counter,
) -> Simulation:
    """Run a search to its end on a simulated clock.

    Args:
        controller: Of the search; no other worker may be at it.
        evaluate: Job -> metrics, at once.
        workers: Speed of each; an evaluation takes `seconds / speed`.
        seconds: What an evaluation takes; a function may depend on the job.
        seed: Of the faults.
        faults: What goes wrong.
        timeout_s: A worker that takes longer over one candidate is killed and replaced.
        controller_s: What each ask and each tell costs, in simulated seconds. None: as much as it really takes; then
            two simulations are no longer the same.
        clock: What that is measured with, in seconds; `time.thread_time` leaves out what other programs take.

    Raises:
        SearchStopped: If too many candidates fail in a row.
        ValueError: If there are no workers, or one whose speed is not above 0.
        RuntimeError: If the search cannot end: every worker hangs or is gone for good.
    """
    if not len(workers) or not min(workers) > 0:
        raise ValueError(f"workers: need at least one, each with a speed above 0, got {list(workers)[:8]}")
    events = _Events(controller, evaluate, workers, seconds, seed, faults, timeout_s, controller_s, clock)
    events.run()
    said, asks, tells = events.said, events.asks, events.tells
    said.ask_ms, said.tell_ms = (1e3 * float(np.mean(s or [0.0])) for s in (asks, tells))
    said.controller_ms = 1e3 * (sum(asks) + sum(tells))
    return said


@dataclass
class _Events:
    """The event queue, and who has what."""

    controller: SearchController
    evaluate: Evaluate
    speeds: Sequence[float]
    seconds: float | Callable[[Job], float]
    seed: int
    faults: Faults
    timeout_s: float
    controller_s: float | None
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        self.said = Simulation(len(self.speeds))
        self.asks: list[float] = []  # real seconds
        self.tells: list[float] = []
        self._now_s = 0.0  # until when the controller is at work
        self._turn = itertools.count()  # events of the same moment come in the order of their making
        self._events: list[tuple[float, int, int, int]] = []
        self._jobs: dict[int, tuple[Job, float]] = {}
        self._attempts: Counter[int] = Counter()

    def run(self) -> None:
        """One event after the other."""
        waiting: deque[int] = deque()
        for index in range(len(self.speeds)):
            self._at(0.0, READY, index)
        while self._events and self._events[0][0] < math.inf:
            moment_s, _, kind, index = heapq.heappop(self._events)
            self._now_s = max(self._now_s, moment_s)
            if kind != READY:
                self._end(index, moment_s, dead=kind == DEAD)
            if kind != DEAD:
                waiting.append(index)
            while waiting:
                answer = self._serve(self.asks, lambda: self.controller.ask(_name(waiting[0])))
                if answer is None:
                    return
                if not isinstance(answer, Job):
                    self.said.waits += 1
                    break  # the others would hear the same
                self._begin(waiting.popleft(), answer)
        raise RuntimeError(f"all {len(self.speeds)} workers hang or are gone; give a timeout, or let them restart")

    def _begin(self, index: int, job: Job) -> None:
        """Draw how the evaluation will end, and when."""
        chance = np.random.default_rng([self.seed, job.number, self._attempts[job.number]]).random(3)
        self._attempts[job.number] += 1
        nominal_s = self.seconds(job) if callable(self.seconds) else self.seconds
        takes_s = nominal_s / self.speeds[index]
        takes_s *= self.faults.slowdown if chance[0] < self.faults.stragglers else 1.0
        dies_s = min(self.timeout_s, takes_s * chance[2] if chance[1] < self.faults.deaths else math.inf)
        self._jobs[index] = job, self._now_s
        self._at(self._now_s + min(takes_s, dies_s), DEAD if dies_s < takes_s else DONE, index)

    def _end(self, index: int, moment_s: float, dead: bool) -> None:
        job, began_s = self._jobs.pop(index)
        self.said.spans.append((began_s, moment_s))
        if dead:
            self.said.deaths += 1
            self._serve(self.tells, lambda: self.controller.lost(_name(index), "simulated"))
            self._at(moment_s + self.faults.restart_s, READY, index)
        else:
            result = attempt(self.evaluate, job)
            self._serve(self.tells, lambda: self.controller.tell(_name(index), job.number, result))

    def _serve(self, times: list[float], call: Callable[[], T]) -> T:
        """Let the controller work; the simulated clock goes on meanwhile."""
        before_s = self.clock()
        answer = call()
        times.append(self.clock() - before_s)
        self._now_s += times[-1] if self.controller_s is None else self.controller_s
        return answer

    def _at(self, moment_s: float, kind: int, index: int) -> None:
        heapq.heappush(self._events, (moment_s, next(self._turn), kind, index))


def _name(index: int) -> str:
    return f"worker-{index}"
