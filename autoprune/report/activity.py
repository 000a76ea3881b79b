"""Who did what in a run, how fast, and what went wrong: read from its ledger, at one moment."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from autoprune.ledger import Entry, Record
from autoprune.problem import Trial, TrialState
from autoprune.report.tables import seconds
from autoprune.schedule import is_cached

RECENT_S = 300.0  # what counts as recent
PATIENCE_S = 60.0  # nothing finished for so long, and
PATIENCE = 5  # so many times as long as the slowest candidate took: something hangs
LONG_S = 600.0  # the same where no candidate of the kind has finished


@dataclass(frozen=True)
class Worker:
    """One worker, as the ledger knows it.

    Attributes:
        name: As in the ledger.
        done: Evaluations that it finished.
        failed: Those among them that failed.
        entry: What it has in hand; None: nothing.
        since_s: When it got that, or finished its last one, on the ledger's clock.
    """

    name: str
    done: int
    failed: int
    entry: Entry | None
    since_s: float


@dataclass(frozen=True)
class Activity:
    """What has happened in a run; times are seconds that controllers were at work (see `Entry.asked_s`).

    Attributes:
        now_s: The moment that is shown.
        workers: Everybody who ever had a candidate, by name.
        waiting: In flight, but in nobody's hands.
        finished: Evaluations that have ended.
        per_minute: Of them, over all of the search.
        recently: Of them, in the last minutes; None if the search is no older, or nothing runs.
        failures: (reason, how many, the last of them), the most frequent first.
    """

    now_s: float
    workers: tuple[Worker, ...]
    waiting: tuple[Entry, ...]
    finished: int
    per_minute: float
    recently: float | None
    failures: tuple[tuple[str, int, Trial], ...]

    @classmethod
    def of(cls, record: Record, now_s: float | None = None) -> Activity:
        """The activity that a ledger tells of.

        Args:
            record: What it says.
            now_s: The moment; default the last one that was written. See `now_s`.
        """
        now = record.worked_s if now_s is None else now_s
        real = [e for e in record.entries if e.same_as is None]
        ended = [e for e in real if e.order >= 0]
        by_name: dict[str, list[Entry]] = {}
        for entry in real:
            by_name.setdefault(entry.trial.worker, []).append(entry)
        waiting = tuple(e for e in real if e.order < 0 and not e.trial.worker)
        last = sum(e.told_s > now - RECENT_S for e in ended)
        return cls(
            now,
            tuple(_worker(name, by_name[name]) for name in sorted(by_name, key=_natural) if name),
            waiting,
            len(ended),
            60 * len(ended) / now if now > 0 else 0.0,
            60 * last / RECENT_S if now > RECENT_S and now_s is not None else None,
            _failures([e.trial for e in sorted(ended, key=lambda e: e.order)]),
        )

    @property
    def pace(self) -> str:
        """Evaluations a minute, in words; empty before the first, and of a ledger that has no clock."""
        if not self.per_minute:
            return ""
        text = f"{self.per_minute:.3g} evaluations a minute in {seconds(self.now_s)} at work"
        return text if self.recently is None else f"{text}, {self.recently:.3g} in the last {seconds(RECENT_S)}"

    @property
    def in_hand(self) -> list[Entry]:
        """What is being evaluated, by worker."""
        return [worker.entry for worker in self.workers if worker.entry]

    @property
    def at_work(self) -> int:
        """Workers that have something in hand, or had a little while ago."""
        return sum(w.entry is not None or self.now_s - w.since_s < PATIENCE_S for w in self.workers)

    def silence_s(self, record: Record) -> float:
        """For how long nothing has finished, if that is suspiciously long; otherwise 0."""
        if not self.in_hand:
            return 0.0
        kinds = {e.trial.fidelity for e in self.in_hand}
        done = [e.trial for e in record.entries if e.order >= 0 and not is_cached(e.trial)]
        slowest = {kind: max((t.seconds for t in done if t.fidelity == kind), default=0.0) for kind in kinds}
        patience = max(max(PATIENCE_S, PATIENCE * s) if s else LONG_S for s in slowest.values())
        last = max([e.told_s for e in record.entries] + [min(e.since_s for e in self.in_hand)])
        return self.now_s - last if self.now_s - last > patience else 0.0


def now_s(record: Record, started: datetime | None = None, now: datetime | None = None) -> float:
    """The ledger's clock at this moment, while a controller is at work.

    Args:
        record: What the ledger says.
        started: When the controller began, if that is known.
        now: This moment; default now.
    """
    clock, moment = record.heard or (0.0, datetime.min)
    moment = max(moment, started or moment)
    elapsed_s = ((now or datetime.now()) - moment).total_seconds() if moment > datetime.min else 0.0
    return max(record.worked_s, clock + elapsed_s)


def _worker(name: str, own: Sequence[Entry]) -> Worker:
    ended = [e for e in own if e.order >= 0]
    entry = next((e for e in own if e.order < 0), None)
    since_s = entry.since_s if entry else max((e.told_s for e in ended), default=0.0)
    return Worker(name, len(ended), sum(e.trial.state is TrialState.FAIL for e in ended), entry, since_s)


def _failures(trials: Sequence[Trial]) -> tuple[tuple[str, int, Trial], ...]:
    """By reason: messages that differ in numbers only are one."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        if trial.state is TrialState.FAIL:
            groups.setdefault(re.sub(r"\d+", "#", trial.error), []).append(trial)
    rows = [(group[-1].error, len(group), group[-1]) for group in groups.values()]
    return tuple(sorted(rows, key=lambda row: -row[1]))


def _natural(name: str) -> list[tuple[int, str]]:
    """worker-2 before worker-10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
