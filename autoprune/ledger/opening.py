"""How a ledger is found or begun, in each kind of place."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import BaseStorage, JournalStorage
from optuna.study import StudyDirection

from autoprune.errors import LedgerUnwritable, RunIsLive
from autoprune.ledger.arrays import Arrays, pack, unpack
from autoprune.ledger.database import address, connect, shown, unreachable
from autoprune.ledger.journal import Journal
from autoprune.ledger.locks import FileLock
from autoprune.ledger.membership import LEAD as LEAD
from autoprune.ledger.membership import Membership, new_name
from autoprune.ledger.pages import Pages, StoragePages
from autoprune.ledger.records import FORMAT, HEAD, Record, check_same, frozen_trials, plain, read_record
from autoprune.ledger.server import SERVERS, Disconnected, Session
from autoprune.ledger.tables import Tables

BEGUN = ".begun"  # beside a ledger that has said what its problem is: then it must not begin again unasked
JOIN = ", or join it with --join"  # on a database server only


@dataclass(frozen=True)
class Wanted:
    """What is to be opened; see `Ledger.open`."""

    run: Path
    groups: Mapping[str, int]
    fingerprint: Mapping[str, Any]
    url: str = ""
    study: str = ""
    fresh: bool = False
    join: bool = False
    me: str = ""
    arrays: Mapping[str, Arrays] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """What errors begin with."""
        return f"run '{self.run}'"

    @property
    def name(self) -> str:
        """Of the study."""
        return self.study or self.run.resolve().name


@dataclass(frozen=True)
class Opened:
    """A ledger that is open.

    Attributes:
        run: The run directory.
        study: Name of the study.
        pages: Where it is written.
        record: What it says.
        ids: Of its trials in the storage, by number.
        unsealed: Numbers of the trials that have a result but not their final state.
        membership: The controllers of the study, where there may be several.
        discard: Takes the study back.
    """

    run: Path
    study: str
    pages: Pages
    record: Record
    ids: list[int]
    unsealed: list[int]
    membership: Membership | None
    discard: Callable[[], None]


def open_ledger(wanted: Wanted, stack: contextlib.ExitStack) -> Opened:
    """Open or begin; see `Ledger.open`. What must be let go of later is put on the stack."""
    run, where, url = wanted.run, wanted.where, address(wanted.url) if wanted.url else ""
    kind = url.partition(":")[0].partition("+")[0]
    if wanted.join and kind not in SERVERS:
        place = "SQLite is a file on one machine" if url else "a file on one machine has one controller"
        text = f"join: {place}; several controllers need --ledger postgresql://... or mysql://..."
        raise ValueError(f"{text} (workers of one controller: --workers, --cluster)")
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        text = f"{where}: the directory cannot be made ({error.strerror}); free space or choose another place"
        raise LedgerUnwritable(text) from error
    if not wanted.join:
        try:
            stack.callback(FileLock(run / ".lock", where).release)
        except RunIsLive as error:
            raise RunIsLive(f"{error}{JOIN if kind in SERVERS else ''}") from None
    if kind in SERVERS:
        return _on_server(wanted, url, stack)
    if url:
        path = Path(f"{sqlalchemy.make_url(url).database or ''}.{wanted.name}.lock")
        stack.callback(FileLock(path, f"study '{wanted.name}'").release)
    with _readable(where):
        storage = connect(url) if url else JournalStorage(Journal(run / "ledger.log"))
        stack.callback(storage.remove_session)
        study = _begin(wanted, storage)
        return _opened(wanted, storage, study, StoragePages(storage, study), None)


def _on_server(wanted: Wanted, url: str, stack: contextlib.ExitStack) -> Opened:
    name, shared = wanted.name, f"'{shown(url)}'"
    storage = connect(url)
    stack.callback(storage.engine.dispose)
    stack.callback(storage.remove_session)
    try:
        session = Session(url)
    except (sqlalchemy.exc.SQLAlchemyError, Disconnected) as error:
        raise unreachable(url, error) from error
    stack.callback(session.release)
    membership = Membership(session, name, wanted.me or new_name())
    with membership.turn():
        if not wanted.join and not membership.lead():  # who joins leads only if nobody does when the search is over
            text = f"another controller is writing it in {shared}; stop it, or wait{JOIN}"
            raise RunIsLive(f"study '{name}': {text}")
        study = _begin(wanted, storage)
        tables = Tables(session, study)
        others = [] if wanted.join else membership.others(tables)
        if others:
            text = f"{', '.join(others)} joined it in {shared} and still search; --join them, or stop them"
            raise RunIsLive(f"study '{name}': {text}")
        opened = _opened(wanted, storage, study, tables, membership)
        tables.last = max(opened.ids, default=0)
        membership.sign(tables)
        return opened


def _begin(wanted: Wanted, storage: BaseStorage) -> int:
    """The id of the study, which is begun if need be and is of the same problem."""
    where, name = wanted.where, wanted.name
    found = find(storage, name, where)
    head = None if found is None else storage.get_study_user_attrs(found).get(HEAD)
    if wanted.join and head is None:
        raise ValueError(f"join: the database has no study '{name}' that has begun; start it without --join")
    if head is not None and wanted.fresh:
        raise ValueError(f"{where}: there is one already; `autoprune resume {wanted.run}`, or choose another name")
    if found is None:
        found = _create(storage, name)
    if head is None:  # a new one, or one that was killed at its first breath
        for key, arrays in wanted.arrays.items():
            for piece, text in pack(key, arrays).items():
                storage.set_study_system_attr(found, piece, text)
        head = {"format": FORMAT, "groups": list(wanted.groups.items()), "fingerprint": wanted.fingerprint}
        storage.set_study_user_attr(found, HEAD, plain(head))
    if not (wanted.run / BEGUN).exists():
        with contextlib.suppress(OSError):  # it only warns of a ledger that is lost later
            (wanted.run / BEGUN).touch()
    return found


def _opened(wanted: Wanted, storage: BaseStorage, study: int, pages: Pages, membership: Membership | None) -> Opened:
    record = read_record(storage, study, wanted.where)
    check_same(record.fingerprint, wanted.fingerprint, wanted.where)
    frozen = frozen_trials(storage, study)
    unsealed = [e.trial.number for e, t in zip(record.entries, frozen, strict=True) if e.order >= 0 > _state(t)]
    ids = [t._trial_id for t in frozen]
    return Opened(
        wanted.run, wanted.name, pages, record, ids, unsealed, membership, lambda: storage.delete_study(study)
    )


def _state(trial: optuna.trial.FrozenTrial) -> int:
    return 0 if trial.state.is_finished() else -1


def read(run: Path, url: str, study: str) -> Record:
    """What the ledger of a run says now; see `Ledger.read`."""
    name, where = study or run.resolve().name, f"run '{run}'"
    with _readable(where):
        storage = connect(address(url)) if url else JournalStorage(Journal(run / "ledger.log", read_only=True))
        try:
            found = find(storage, name, where)
            if found is None:
                place = f"database '{shown(address(url))}'" if url else f"'{run / 'ledger.log'}'"
                raise ValueError(f"{where}: {place} holds no study '{name}'; was the search killed before it began?")
            return read_record(storage, found, where)
        finally:
            storage.remove_session()


@contextlib.contextmanager
def _readable(where: str) -> Iterator[None]:
    """Turn whatever Optuna or `read_record` stumble over in a ledger that makes no sense into one sentence."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, AssertionError) as error:
        text = f"{where}: its ledger makes no sense ({type(error).__name__}: {error}); restore it from a copy"
        raise ValueError(text) from error


def has_begun(run: Path, url: str, study: str) -> bool:
    """Whether there is a ledger that says what its problem is; see `Ledger.has_begun`."""
    path = Path(sqlalchemy.make_url(address(url)).database or "") if url.startswith("sqlite") else run / "ledger.log"
    if (not url or url.startswith("sqlite")) and not path.is_file():
        return False
    storage = connect(address(url)) if url else JournalStorage(Journal(path, read_only=True))
    try:
        found = find(storage, study or run.resolve().name, f"run '{run}'")
        return found is not None and HEAD in storage.get_study_user_attrs(found)
    finally:
        storage.remove_session()


def kept_arrays(url: str, study: str, name: str) -> Arrays | None:
    """Arrays kept when the study began; see `Ledger.kept_arrays`."""
    storage = connect(address(url))
    try:
        found = find(storage, study, "")
        return None if found is None else unpack(name, storage.get_study_system_attrs(found))
    finally:
        storage.remove_session()


def refuse_existing(url: str, study: str) -> None:
    """Check that a database can be used and has no such study yet; see `Ledger.refuse_existing`."""
    storage = connect(address(url))
    try:
        if find(storage, study, "") is not None:
            join = JOIN if url.startswith(SERVERS) else ""
            text = f"is in '{shown(address(url))}' already; resume its run{join}, or choose another name"
            text = f"study '{study}': {text}"
            raise ValueError(text)
    finally:
        storage.remove_session()


def find(storage: BaseStorage, name: str, where: str) -> int | None:
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
        study = storage.create_new_study([StudyDirection.MINIMIZE], name)
        storage.set_study_system_attr(study, "study:metric_names", ["loss"])  # what optuna-dashboard calls the value
        return study
    finally:
        optuna.logging.set_verbosity(verbosity)
