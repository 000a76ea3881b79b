"""The one book of a search: an Optuna study, in a journal file of the run directory or in a database.

A trial is written when it starts (one operation: widths, fidelity, owner) and when it ends (its result, then Optuna's
final state). The trials in state RUNNING *are* the list of what is in flight. The result is the commit: a trial that
has one is finished, even if a kill came before its state was written.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from optuna.distributions import BaseDistribution, IntDistribution
from optuna.trial import FrozenTrial

from autoprune.fidelity import Fidelity
from autoprune.ledger import opening
from autoprune.ledger.arrays import Arrays
from autoprune.ledger.locks import FileLock
from autoprune.ledger.opening import Opened
from autoprune.ledger.pages import writing
from autoprune.ledger.records import STATES, Entry, Record, begun, gone_on, plain
from autoprune.problem import Trial, TrialState
from search_spaces import Widths

T = TypeVar("T")


class Ledger:
    """The book, open for writing. Made by `Ledger.open`; anybody may `Ledger.read` it meanwhile.

    In a file or in SQLite it has one writer. On a database server it may have several: what they do they do in turns,
    and each turn begins with what the others have written.

    Attributes:
        trials: Every trial so far in number order: the ledger's own copy, exact within a turn.
        entries: The same, with what the controller must remember of each.
        groups: Group name -> number of units, in the order of `Widths`.
        fingerprint: What the problem is.
        notes: What else was kept, by key.
    """

    def __init__(self, opened: Opened, release: contextlib.ExitStack) -> None:
        record = opened.record
        self.entries, self.trials = list(record.entries), record.trials
        self.groups, self.fingerprint, self.notes = dict(record.groups), record.fingerprint, dict(record.notes)
        self._opened, self._pages, self._membership, self._release = opened, opened.pages, opened.membership, release
        self._ids = list(opened.ids)
        self._distributions: dict[str, BaseDistribution] = {n: IntDistribution(0, c) for n, c in self.groups.items()}
        self._num_finished = 1 + max((e.order for e in self.entries), default=-1)
        self._running = {e.trial.number for e in self.entries if e.order < 0}
        self._worked_s, self._opened_at = record.worked_s, time.monotonic()
        for number in opened.unsealed:  # killed between the result and the final state
            with writing(f"trial {number}"):
                self._pages.seal(self._ids[number], *_final(self.trials[number]))

    @classmethod
    def open(
        cls,
        run: str | Path,
        groups: Mapping[str, int],
        fingerprint: Mapping[str, Any],
        *,
        url: str = "",
        study: str = "",
        fresh: bool = False,
        join: bool = False,
        me: str = "",
        arrays: Mapping[str, Arrays] | None = None,
    ) -> Ledger:
        """Open the ledger of a run for writing, or begin it. The run is locked until `close` or the process's end.

        Args:
            run: The run directory (made if missing).
            groups: Group name -> number of units, in the order of `Widths`.
            fingerprint: What the problem is (weights, space, budgets, data, seed...), plain JSON, nested as you like.
            url: A database that keeps the ledger, instead of `ledger.log` in the run directory.
            study: Name of the study; default that of the run directory.
            fresh: Refuse a ledger that exists.
            join: Be one of several controllers, on a database server; the study must exist.
            me: Name of this controller among them; default one that nobody else has. A controller that dies and is
                made again under its name finds its workers' jobs as they were.
            arrays: Kept with the problem when it begins on a server, for `kept_arrays`.

        Raises:
            LedgerMismatch: If it was begun with another fingerprint.
            RunIsLive: If another controller holds it.
            LedgerUnwritable: If the disk is full or read-only, or the database does not take it.
            ValueError: If it exists (`fresh`), does not (`join`), holds only other studies, cannot be joined, or the
                database cannot be used.
        """
        wanted = opening.Wanted(Path(run), groups, fingerprint, url, study, fresh, join, me, arrays or {})
        with contextlib.ExitStack() as stack, writing(f"run '{run}'"):
            return cls(opening.open_ledger(wanted, stack), stack.pop_all())

    @staticmethod
    def read(run: str | Path, *, url: str = "", study: str = "") -> Record:
        """What the ledger of a run says now; its controller may be writing meanwhile.

        Raises:
            ValueError: If there is no such ledger.
        """
        return opening.read(Path(run), url, study)

    @staticmethod
    def has_begun(run: str | Path, *, url: str = "", study: str = "") -> bool:
        """Whether the ledger of a run is there and says what its problem is.

        Raises:
            ValueError: If it is damaged, or its database cannot be used.
        """
        return opening.has_begun(Path(run), url, study)

    @staticmethod
    def kept_arrays(url: str, study: str, name: str) -> Arrays | None:
        """Arrays that were kept when the study began; None if none were."""
        return opening.kept_arrays(url, study, name)

    @staticmethod
    def refuse_existing(url: str, study: str) -> None:
        """Check that a database can be used and has no such study yet.

        Raises:
            ValueError: If it cannot, or has.
        """
        opening.refuse_existing(url, study)

    @property
    def worked_s(self) -> float:
        """Seconds that controllers have been at work, this one included; a kill loses what came after the last write.

        It is counted on the monotonic clock: the time between a stop and a resume does not count, and a clock that is
        set anew changes nothing.
        """
        return self._worked_s + time.monotonic() - self._opened_at

    @property
    def me(self) -> str:
        """Name of this controller among several; empty where there can be one only."""
        return self._membership.me if self._membership else ""

    def turn(self, learn: Callable[[list[Entry]], None], act: Callable[[], T]) -> T:
        """Act on the ledger as it is, while nobody else may; both may be repeated if the database goes away.

        Args:
            learn: Is given the entries that others have written or changed since the last turn, by number.
            act: What to do then.

        Raises:
            LedgerUnwritable: If the database does not come back.
            RunIsLive: If another controller has taken over meanwhile.
        """
        membership = self._membership
        if membership is None:
            return act()

        def once() -> T:
            with membership.turn():
                learn(self._take_in())
                return act()

        return membership.steady(once)

    def lives(self, controller: str) -> bool:
        """Whether the controller of that name lives; within a turn."""
        return self._membership is not None and self._membership.lives(controller)

    def lead(self) -> bool:
        """Whether this controller leads, and delivers the winner; it takes over if the leader is gone."""
        membership = self._membership
        if membership is None or membership.leads:
            return True
        if not membership.steady(membership.lead):
            return False
        lock = FileLock(self._opened.run / ".lock", f"run '{self._opened.run}'")
        self._release.callback(lock.release)
        self.note(opening.LEAD, membership.me)
        return True

    def fresh_note(self, key: str) -> Any:
        """A note as it is now, whoever wrote it."""
        return self._steady(lambda: self._pages.read_note(key))

    def hear(self, say: Callable[[str], None]) -> None:
        """Have what the user should know of the database told to `say`."""
        if self._membership:
            self._membership.say = say

    def start(
        self,
        widths: Widths,
        fidelity: str,
        worker: str,
        *,
        incumbent: int | None = None,
        same_as: int | None = None,
        genes: tuple[float, ...] = (),
        probe: bool = False,
    ) -> Trial:
        """Write a trial that begins: one operation."""
        if len(widths) != len(self.groups):
            raise ValueError(f"candidate {widths}: has {len(widths)} widths, but there are {len(self.groups)} groups")
        params = {name: int(w) for name, w in zip(self.groups, widths, strict=True)}
        said: dict[str, Any] = {"fidelity": fidelity, "owner": worker, "incumbent": incumbent, "same_as": same_as}
        said |= {"genes": list(genes) or None, "probe": probe or None, "asked_s": self._time()}
        now, number = datetime.now(), len(self.entries)
        template = FrozenTrial(
            number=number,
            trial_id=-1,  # the storage's to choose
            state=STATES[TrialState.RUNNING],
            value=None,
            datetime_start=now,
            datetime_complete=None,
            params=params,
            distributions=self._distributions,
            user_attrs={k: v for k, v in said.items() if v is not None},
            system_attrs={},
            intermediate_values={},
        )
        with writing(f"trial {number}"):
            trial_id = self._pages.start(template)
        metrics = {} if same_as is None else {"cached": True}
        found = tuple(params.values())
        trial = Trial(number, found, TrialState.RUNNING, metrics, Fidelity(fidelity), worker, genes=genes, probe=probe)
        self._ids.append(trial_id)
        self._running.add(number)
        self.trials.append(trial)
        asked_s = said["asked_s"]
        self.entries.append(Entry(trial, incumbent, same_as, started=now, asked_s=asked_s, since_s=asked_s))
        return trial

    def assign(self, number: int, worker: str) -> None:
        """Write who evaluates a running trial now (nobody: "")."""
        now = self._time()
        self._set(number, owner=worker, since_s=now)
        self._put(replace(self.trials[number], worker=worker), since_s=now)

    def count_death(self, number: int) -> int:
        """Write that one more worker died on this trial, which nobody has now; returns how many by now."""
        deaths = self.entries[number].deaths + 1
        self._set(number, deaths=deaths, owner="")
        self._put(replace(self.trials[number], worker=""), deaths=deaths)
        return deaths

    def finish(self, trial: Trial) -> None:
        """Write a finished trial; it is on the disk for good when this returns."""
        result = {
            "state": trial.state.value,
            "metrics": trial.metrics,
            "seconds": trial.seconds,
            "error": trial.error,
            "order": self._num_finished,
            "told_s": self._time(),
        }
        if trial.worker != self.trials[trial.number].worker:  # somebody else than its owner
            result["worker"] = trial.worker
        with writing(f"trial {trial.number}"):
            self._pages.finish(self._ids[trial.number], result, *_final(trial))
        self._running.discard(trial.number)
        self._put(trial, order=self._num_finished, told_s=result["told_s"])
        self._num_finished += 1

    def note(self, key: str, value: Any) -> None:
        """Keep something beside the trials (the dense network's metrics, say), plain JSON."""
        value = plain(value)
        with writing(f"note '{key}'"):
            self._steady(lambda: self._pages.note(key, value))
        self.notes[key] = value

    def discard(self) -> None:
        """Take the study back, as if it had never begun."""
        self._opened.discard()

    def close(self) -> None:
        """Let other controllers in; may be repeated."""
        self._release.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _time(self) -> float:
        """`worked_s` as it is written."""
        return round(self.worked_s, 3)

    def _steady(self, act: Callable[[], T]) -> T:
        return self._membership.steady(act) if self._membership else act()

    def _set(self, number: int, **said: Any) -> None:
        with writing(f"trial {number}"):
            self._pages.set(self._ids[number], said)

    def _put(self, trial: Trial, **more: Any) -> None:
        self.trials[trial.number] = trial
        self.entries[trial.number] = replace(self.entries[trial.number], trial=trial, **more)

    def _take_in(self) -> list[Entry]:
        """What others have written since; within a turn."""
        where = f"study '{self._opened.study}'"
        with writing(where):
            rows = self._pages.news([self._ids[number] for number in self._running])
        changed = []
        for row in rows:
            if row.number < len(self.entries):
                before = self.entries[row.number]
                entry = gone_on(before, row.said)
                if entry == before:
                    continue
                self.entries[row.number], self.trials[row.number] = entry, entry.trial
            else:
                entry = begun(row.number, row.params, row.said, row.started, self.groups, where)
                self._ids.append(row.id)
                self.entries.append(entry)
                self.trials.append(entry.trial)
            (self._running.add if entry.order < 0 else self._running.discard)(row.number)
            self._num_finished = max(self._num_finished, entry.order + 1)
            changed.append(entry)
        return changed


def _final(trial: Trial) -> tuple[Any, list[float] | None]:
    """The state and the values that Optuna is told."""
    return STATES[trial.state], [trial.loss] if math.isfinite(trial.loss) else None
