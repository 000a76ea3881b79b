"""What goes wrong in a simulated search, and what came of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Faults:
    """What goes wrong, drawn for each attempt at a trial from the seed, the trial's number and its deaths so far.

    Attributes:
        deaths: Probability that a worker dies during an evaluation, at any moment of it.
        restart_s: Simulated seconds until its successor asks.
        stragglers: Probability that an evaluation takes `slowdown` times as long.
        slowdown: See above; infinite: it hangs, and only a timeout helps.
    """

    deaths: float = 0.0
    restart_s: float = 5.0
    stragglers: float = 0.0
    slowdown: float = 10.0


NONE = Faults()


@dataclass
class Simulation:
    """What came of it; all seconds are simulated, all milliseconds are the real controller's.

    Attributes:
        num_workers: How many there were.
        spans: Begin and end of each evaluation, also of those cut short.
        deaths: Workers that died or were killed at the timeout.
        waits: Asks that were answered with WAIT.
        ask_ms: Mean time of an ask, whatever the answer.
        tell_ms: Mean time of a tell.
        controller_ms: All asks and tells together.
    """

    num_workers: int
    spans: list[tuple[float, float]] = field(default_factory=list)
    deaths: int = 0
    waits: int = 0
    ask_ms: float = 0.0
    tell_ms: float = 0.0
    controller_ms: float = 0.0

    @property
    def evaluations(self) -> int:
        """Those begun."""
        return len(self.spans)

    @property
    def makespan_s(self) -> float:
        """From the start to the end of the last evaluation."""
        return max((end for _, end in self.spans), default=0.0)

    @property
    def idle_s(self) -> float:
        """Seconds of all workers together in which they had nothing to evaluate."""
        return self.num_workers * self.makespan_s - sum(end - begin for begin, end in self.spans)

    def busy(self, until_s: float = math.inf) -> float:
        """Fraction of the workers' time in which they evaluated, up to a moment (default: to the end)."""
        until_s = min(until_s, self.makespan_s)
        worked_s = sum(max(0.0, min(end, until_s) - begin) for begin, end in self.spans)
        return worked_s / (self.num_workers * until_s) if until_s else 1.0

    @property
    def steady(self) -> float:
        """`busy` until the last evaluation begins: without the tail, in which there is nothing left to hand out."""
        return self.busy(max((begin for begin, _ in self.spans), default=0.0))
