"""The one book of a search: an Optuna study, in a journal file of the run directory or in a database.

A trial is written when it starts (one operation: widths, fidelity, owner) and when it ends (its result, then Optuna's
final state). The trials in state RUNNING *are* the list of what is in flight. The result is the commit: a trial that
has one is finished, even if a kill came before its state was written.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.storages import BaseStorage, JournalStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from autoprune.errors import LedgerUnwritable
from autoprune.ledger.database import address, connect, lock_study, shown
from autoprune.ledger.journal import Journal
from autoprune.ledger.locks import FileLock, Lock
from autoprune.ledger.records import FORMAT, HEAD, STATES, Entry, Record, check_same, frozen_trials, plain, read_record
from autoprune.problem import Trial, TrialState
from search_spaces import Widths


class Ledger:
    """The book, open for its one writer. Made by `Ledger.open`; anybody may `Ledger.read` it meanwhile.

    Attributes:
        trials: Every trial so far in number order: the ledger's own copy, exact because nobody else writes.
        entries: The same, with what the controller must remember of each.
        groups: Group name -> number of units, in the order of `Widths`.
        fingerprint: What the problem is.
        notes: What else was kept, by key.
    """

    def __init__(self, storage: BaseStorage, study: int, record: Record, release: contextlib.ExitStack) -> None:
        self.entries, self.trials = list(record.entries), record.trials
        self.groups, self.fingerprint, self.notes = dict(record.groups), record.fingerprint, dict(record.notes)
        self._storage, self._study, self._release = storage, study, release
        self._distributions: dict[str, BaseDistribution] = {n: IntDistribution(0, c) for n, c in self.groups.items()}
        self._num_finished = 1 + max((e.order for e in self.entries), default=-1)
        frozen = frozen_trials(storage, study)
        self._ids = [t._trial_id for t in frozen]
        for entry, trial in zip(record.entries, frozen, strict=True):
            if entry.order >= 0 and not trial.state.is_finished():  # killed between the result and the final state
                self._seal(entry.trial)

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
    ) -> Ledger:
        """Open the ledger of a run for writing, or begin it. The run is locked until `close` or the process's end.

        Args:
            run: The run directory (made if missing).
            groups: Group name -> number of units, in the order of `Widths`.
            fingerprint: What the problem is (weights, space, budgets, data, seed...), plain JSON, nested as you like.
            url: A database that keeps the ledger, instead of `ledger.log` in the run directory.
            study: Name of the study; default that of the run directory.
            fresh: Refuse a ledger that exists.

        Raises:
            LedgerMismatch: If it was begun with another fingerprint.
            RunIsLive: If another controller holds it.
            LedgerUnwritable: If the disk is full or read-only, or the database does not take it.
            ValueError: If it exists (`fresh`), holds only other studies, or the database cannot be used.
        """
        run, url, where = Path(run), address(url) if url else "", f"run '{run}'"
        name = study or run.resolve().name
        try:
            run.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            text = f"{where}: the directory cannot be made ({error.strerror}); free space or choose another place"
            raise LedgerUnwritable(text) from error
        with contextlib.ExitStack() as stack, _writing(where):
            locks: list[Lock] = [FileLock(run / ".lock", where)]
            stack.callback(locks[0].release)
            if url:
                locks.append(lock_study(url, name))
                stack.callback(locks[1].release)
            storage = connect(url) if url else JournalStorage(Journal(run / "ledger.log"))
            stack.callback(storage.remove_session)
            found = _find(storage, name, where)
            found = _create(storage, name) if found is None else found
            head = storage.get_study_user_attrs(found).get(HEAD)
            if head is None:  # a new one, or one that was killed at its first breath
                head = {"format": FORMAT, "groups": list(groups.items()), "fingerprint": fingerprint}
                storage.set_study_user_attr(found, HEAD, plain(head))
            elif fresh:
                raise ValueError(f"{where}: there is one already; `autoprune resume {run}`, or choose another name")
            record = read_record(storage, found, where)
            check_same(record.fingerprint, fingerprint, where)
            return cls(storage, found, record, stack.pop_all())

    @staticmethod
    def read(run: str | Path, *, url: str = "", study: str = "") -> Record:
        """What the ledger of a run says now; its controller may be writing meanwhile.

        Raises:
            ValueError: If there is no such ledger.
        """
        run, name, where = Path(run), study or Path(run).resolve().name, f"run '{run}'"
        storage = connect(address(url)) if url else JournalStorage(Journal(run / "ledger.log", read_only=True))
        try:
            found = _find(storage, name, where)
            if found is None:
                place = f"database '{shown(address(url))}'" if url else f"'{run / 'ledger.log'}'"
                raise ValueError(f"{where}: {place} holds no study '{name}'; was the search killed before it began?")
            return read_record(storage, found, where)
        finally:
            storage.remove_session()

    @staticmethod
    def refuse_existing(url: str, study: str) -> None:
        """Check that a database can be used and has no such study yet.

        Raises:
            ValueError: If it cannot, or has.
        """
        storage = connect(address(url))
        try:
            if _find(storage, study, "") is not None:
                text = f"study '{study}': is in '{shown(address(url))}' already; resume its run, or choose another name"
                raise ValueError(text)
        finally:
            storage.remove_session()

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
        said |= {"genes": list(genes) or None, "probe": probe or None}
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
        with _writing(f"trial {number}"):
            trial_id = self._storage.create_new_trial(self._study, template)
            written = self._storage.get_trial_number_from_id(trial_id)
        if written != number:
            raise ValueError(f"trial {number}: written as {written}; somebody else adds trials: stop them and resume")
        metrics = {} if same_as is None else {"cached": True}
        found = tuple(params.values())
        trial = Trial(number, found, TrialState.RUNNING, metrics, fidelity, worker, genes=genes, probe=probe)
        self._ids.append(trial_id)
        self.trials.append(trial)
        self.entries.append(Entry(trial, incumbent, same_as, started=now))
        return trial

    def assign(self, number: int, worker: str) -> None:
        """Write who evaluates a running trial now (nobody: "")."""
        self._set(number, "owner", worker)
        self._put(replace(self.trials[number], worker=worker))

    def count_death(self, number: int) -> int:
        """Write that one more worker died on this trial; returns how many by now."""
        deaths = self.entries[number].deaths + 1
        self._set(number, "deaths", deaths)
        self._put(self.trials[number], deaths=deaths)
        return deaths

    def finish(self, trial: Trial) -> None:
        """Write a finished trial; it is on the disk for good when this returns."""
        result = {
            "state": trial.state.value,
            "metrics": trial.metrics,
            "seconds": trial.seconds,
            "error": trial.error,
            "order": self._num_finished,
        }
        self._set(trial.number, "result", result)
        self._seal(trial)
        self._put(trial, order=self._num_finished)
        self._num_finished += 1

    def note(self, key: str, value: Any) -> None:
        """Keep something beside the trials (the dense network's metrics, say), plain JSON."""
        value = plain(value)
        with _writing(f"note '{key}'"):
            self._storage.set_study_user_attr(self._study, key, value)
        self.notes[key] = value

    def discard(self) -> None:
        """Take the study back, as if it had never begun."""
        self._storage.delete_study(self._study)

    def close(self) -> None:
        """Let other controllers in; may be repeated."""
        self._release.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _set(self, number: int, key: str, value: Any) -> None:
        with _writing(f"trial {number}"):
            self._storage.set_trial_user_attr(self._ids[number], key, value)

    def _put(self, trial: Trial, **more: Any) -> None:
        self.trials[trial.number] = trial
        self.entries[trial.number] = replace(self.entries[trial.number], trial=trial, **more)

    def _seal(self, trial: Trial) -> None:
        values = [trial.loss] if math.isfinite(trial.loss) else None
        with _writing(f"trial {trial.number}"):
            self._storage.set_trial_state_values(self._ids[trial.number], STATES[trial.state], values)


@contextlib.contextmanager
def _writing(what: str) -> Iterator[None]:
    """Turns what a database throws into one sentence (the journal speaks for itself)."""
    try:
        yield
    except optuna.exceptions.StorageInternalError as error:
        cause = str(error.__cause__ or error).strip().splitlines()[0]
        text = f"{what}: the database does not take it ({cause}); what it took before is safe: repair it and resume"
        raise LedgerUnwritable(text) from error


def _find(storage: BaseStorage, name: str, where: str) -> int | None:
    """The study of that name; a journal belongs to one run, so its only study is meant whatever it is called."""
    with contextlib.suppress(KeyError):
        return storage.get_study_id_from_name(name)
    others = storage.get_all_studies() if isinstance(storage, JournalStorage) else []
    if len(others) > 1:
        names = ", ".join(s.study_name for s in others)
        raise ValueError(f"{where}: its ledger holds the studies {names}, but no '{name}'; was the directory renamed?")
    return others[0]._study_id if others else None


def _create(storage: BaseStorage, name: str) -> int:
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # "A new study created in..." is no news to a user
    try:
        return storage.create_new_study([StudyDirection.MINIMIZE], name)
    finally:
        optuna.logging.set_verbosity(verbosity)
