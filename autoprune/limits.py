"""When a search takes no new candidate, and when it gives up: time, target, failures."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # settings are checked before torch is loaded
    from autoprune.problem import Trial

FEWEST = 20  # candidates from which a failure rate can be told
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")
_TARGET = re.compile(r"\s*(\w+)\s*(<=|>=)\s*([\d.]+(?:e-?\d+)?)\s*(%?)\s*")


@dataclass(frozen=True)
class Target:
    """A candidate that is good enough.

    Attributes:
        metric: "loss" or a score of the task, on the validation samples.
        limit: That it must reach.
        at_least: Whether more of it is better.
    """

    metric: str
    limit: float
    at_least: bool = False

    def is_met(self, trial: Trial) -> bool:
        """Whether this complete trial is so good."""
        value = trial.metrics.get(self.metric, math.nan)
        return bool(value >= self.limit if self.at_least else value <= self.limit)

    def __str__(self) -> str:
        in_percent = self.metric == "top1"
        shown = f"{100 * self.limit:g}%" if in_percent else f"{self.limit:g}"
        return f"{self.metric}{'>=' if self.at_least else '<='}{shown}"


@dataclass(frozen=True)
class Limits:
    """What ends a search before its last trial.

    Attributes:
        time_s: No new candidate after so many seconds at work, over all resumes, once one is complete: a search has
            a winner. Finalists still run.
        target: No new candidate after one that is so good.
        max_failures: So many failed candidates in a row stop the search,
        max_failure_rate: or more than this fraction of 20 or more; both since the controller was made, so that a
            resume after the cure is not stopped by the old failures.
    """

    time_s: float = math.inf
    target: Target | None = None
    max_failures: int = 10
    max_failure_rate: float = 1.0


class StoppingRule:
    """Holds a search to its limits.

    Args:
        limits: Of the run.
        fidelity: Of the search: only its candidates can reach the target.
    """

    def __init__(self, limits: Limits, fidelity: str) -> None:
        self._limits, self._fidelity = limits, fidelity
        self._met = self._any = False
        self._row = self._failed = self._finished = 0

    def learn(self, trial: Trial) -> None:
        """A trial has finished, now or before a resume."""
        self._any = self._any or (trial.state.value == "complete" and not trial.probe)
        if self._limits.target and not self._met:
            self._met = met([trial], self._limits.target, self._fidelity) is not None

    def count(self, trial: Trial) -> None:
        """An evaluation has ended, just now."""
        failed = trial.state.value == "fail"
        self._finished += 1
        self._failed += failed
        self._row = self._row + 1 if failed else 0

    def is_enough(self, worked_s: float) -> bool:
        """Whether there is to be no new candidate.

        Args:
            worked_s: Seconds that controllers were at work.
        """
        return self._met or (self._any and worked_s >= self._limits.time_s)

    def failing(self) -> str:
        """Why the search is to be given up; empty if it is not."""
        if self._row >= self._limits.max_failures:
            return f"the last {self._row} candidates all failed"
        if self._finished >= FEWEST and self._failed / self._finished > self._limits.max_failure_rate:
            return f"{self._failed} of {self._finished} candidates failed"
        return ""


def met(trials: Iterable[Trial], target: Target, fidelity: str) -> Trial | None:
    """The first of the trials, complete candidates of that fidelity, that reaches the target."""
    complete = (t for t in trials if t.state.value == "complete" and t.fidelity == fidelity)
    return next((t for t in complete if not t.probe and target.is_met(t)), None)


def parse_time(text: str) -> float:
    """Seconds of "90s", "45m", "2h" or "1h30m"; "" is no limit.

    Raises:
        ValueError: If it says no duration above 0.
    """
    if not text:
        return math.inf
    found = _DURATION.fullmatch(text.replace(" ", "").lower())
    seconds = sum(float(n or 0) * s for n, s in zip(found.groups(), (3600, 60, 1), strict=True)) if found else 0.0
    if not 0 < seconds < math.inf:
        raise ValueError(f"time '{text}': expected hours, minutes and seconds above 0, e.g. 2h, 1h30m, 45m or 90s")
    return seconds


def longer(text: str, worked_s: float) -> str:
    """The limit that "+30s" means for a run that has worked so many seconds.

    Raises:
        ValueError: If no duration follows the plus.
    """
    return f"{math.ceil(worked_s + parse_time(text[1:] or '+'))}s"


def parse_target(text: str) -> Target | None:
    """What "top1>=90%", "miou>=0.7" or "loss<=0.4" asks for; "" is no target.

    Raises:
        ValueError: If it is none of these.
    """
    if not text:
        return None
    forms = "expected top1>=90%, miou>=0.7 (a score of the task) or loss<=0.4, on the validation samples"
    found = _TARGET.fullmatch(text)
    wrong = {("top1", "<="), ("loss", ">=")}
    if not found or (found[1], found[2]) in wrong or (found[4] and found[1] == "loss"):
        raise ValueError(f"target '{text}': {forms}")
    try:
        limit = float(found[3]) / (100 if found[4] else 1)
    except ValueError:
        raise ValueError(f"target '{text}': '{found[3]}' is no number; {forms}") from None
    if not math.isfinite(limit):
        raise ValueError(f"target '{text}': must be a finite number; {forms}")
    if found[1] == "top1" and not 0 < limit <= 1:
        raise ValueError(f"target '{text}': top-1 must lie above 0 and be at most 1 or 100%; {forms}")
    return Target(found[1], limit, found[2] == ">=")


def duration(seconds: float) -> str:
    """In words as `parse_time` reads them, to two places: "45s", "1h30m", "2h"; days are hours."""
    if seconds < 59.95:
        return f"{seconds:.1f}s".replace(".0s", "s") if seconds < 10 else f"{seconds:.0f}s"
    whole = round(seconds) if seconds < 3600 else 60 * round(seconds / 60)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return "".join(f"{n}{unit}" for n, unit in ((hours, "h"), (minutes, "m"), (rest, "s")) if n)
