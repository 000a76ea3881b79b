"""The ledger: what is written is read back, by us and by Optuna; the wrong run is refused."""

import json
import multiprocessing as mp
import shutil
import sqlite3
import time
import warnings
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from autoprune.errors import LedgerMismatch, LedgerUnwritable, RunIsLive
from autoprune.ledger import Ledger, holder, plain, refuse_password
from autoprune.ledger.database import address
from autoprune.ledger.pages import StoragePages
from autoprune.problem import Trial, TrialState

GROUPS = {"conv1": 8, "layer1.0.conv1": 16}
PROBLEM = {"seed": 1, "space": "abcd", "data": {"name": "digits", "split": [0.8, 0.2]}}
OLD = Path(__file__).parents[1] / "data" / "old-ledger"


@pytest.fixture(params=["file", "sqlite"])
def place(request, tmp_path):
    """(run directory, url) of each kind of storage."""
    return tmp_path / "run", f"sqlite:///{tmp_path}/books.db" if request.param == "sqlite" else ""


def begin(place, **more):
    return Ledger.open(place[0], GROUPS, PROBLEM, url=place[1], **more)


def fill(ledger):
    """One trial in each state."""
    done = replace(ledger.start((4, 8), "proxy", "w0"), state=TrialState.COMPLETE, seconds=1.5,
                   metrics={"loss": 0.1 + 0.2, "top1": 0.9, "batch_losses": [0.1, 1 / 3]})  # fmt: skip
    bad = ledger.start((2, 8), "proxy", "w1", incumbent=0)
    ledger.finish(replace(bad, state=TrialState.FAIL, error="the loss is NaN"))
    ledger.finish(done)
    slow = ledger.start((3, 8), "proxy", "w1", incumbent=0)
    ledger.finish(replace(slow, state=TrialState.PRUNED, metrics={"loss": 3.5, "abandoned": True}))
    ledger.start((4, 8), "proxy", "", same_as=0)
    ledger.start((4, 8), "short", "w0")
    ledger.assign(4, "w2")
    assert [ledger.count_death(4), ledger.count_death(4)] == [1, 2]


def test_a_ledger_says_the_same_after_it_is_opened_again_and_to_a_reader(place):
    with begin(place) as ledger:
        fill(ledger)
        ledger.note("dense", {"loss": 0.25})
        read = Ledger.read(place[0], url=place[1])  # while it is being written
        assert list(read.entries) == ledger.entries
    with begin(place) as again:
        assert again.entries == ledger.entries
        assert again.notes == read.notes == {"dense": {"loss": 0.25}}
        assert read.groups == GROUPS
        assert read.fingerprint == PROBLEM
    expected = [(0, "complete", 1), (1, "fail", 0), (2, "pruned", 2), (3, "running", -1), (4, "running", -1)]
    assert [(e.trial.number, e.trial.state.value, e.order) for e in again.entries] == expected
    assert again.trials[0].metrics["loss"] == 0.1 + 0.2  # to the last bit
    assert again.entries[4].trial == Trial(4, (4, 8), fidelity="short", worker="")  # who had it is dead
    assert again.entries[4].deaths == 2
    assert again.entries[3].trial.metrics == {"cached": True}
    assert (again.entries[3].same_as, again.entries[2].incumbent) == (0, 0)


def test_optunas_own_tools_read_it(place):
    with begin(place) as ledger:
        fill(ledger)
    run, url = place
    backend = optuna.storages.journal.JournalFileBackend(str(run / "ledger.log"))
    study = optuna.load_study(study_name="run", storage=url or optuna.storages.JournalStorage(backend))
    assert study.direction is optuna.study.StudyDirection.MINIMIZE
    assert study.best_trial.params == {"conv1": 4, "layer1.0.conv1": 8}
    assert study.best_value == 0.1 + 0.2
    assert [t.state.name for t in study.trials] == ["COMPLETE", "FAIL", "PRUNED", "RUNNING", "RUNNING"]
    assert len(study.trials_dataframe()) == 5


def test_a_kill_between_result_and_final_state_loses_nothing(place, monkeypatch):
    ledger = begin(place)
    fill(ledger)
    with monkeypatch.context() as patch:
        patch.setattr(StoragePages, "seal", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        told = replace(ledger.trials[4], state=TrialState.COMPLETE, metrics={"loss": 0.5})
        with pytest.raises(KeyboardInterrupt):
            ledger.finish(told)
    ledger.close()
    with begin(place) as again:
        assert again.trials[4] == told
        assert again.entries[4].order == 3
    states = [t.state for t in optuna.load_study(study_name="run", storage=_stock(place)).trials]
    assert states[4] is optuna.trial.TrialState.COMPLETE


def _stock(place):
    backend = optuna.storages.journal.JournalFileBackend(str(place[0] / "ledger.log"))
    return place[1] or optuna.storages.JournalStorage(backend)


def test_another_problem_is_refused_with_the_fields_that_differ(place):
    begin(place).close()
    other = {"seed": 2, "space": "abcd", "data": {"name": "digits", "split": [0.9, 0.1]}, "criterion": "l1"}
    with pytest.raises(LedgerMismatch) as caught:
        Ledger.open(place[0], GROUPS, other, url=place[1])
    text = str(caught.value)
    assert "seed is 1 there and 2 here" in text
    assert "data.split is [0.8, 0.2] there and [0.9, 0.1] here" in text
    assert 'criterion is null there and "l1" here' in text
    assert "space" not in text
    begin(place).close()  # and it is free again


def test_a_renamed_run_goes_on_in_its_own_study(place, tmp_path, monkeypatch):
    with begin(place, study="run") as ledger:
        fill(ledger)
    place[0].rename(tmp_path / "renamed")
    monkeypatch.chdir(tmp_path / "renamed")
    for run in (tmp_path / "renamed", Path(".")):
        with Ledger.open(run, GROUPS, PROBLEM, url=place[1], study="run") as again:
            assert again.entries == ledger.entries
        assert list(Ledger.read(run, url=place[1], study="run").entries) == ledger.entries
        if not place[1]:  # a journal belongs to one run, whatever it is called
            with Ledger.open(run, GROUPS, PROBLEM) as again:
                assert again.entries == ledger.entries
            assert list(Ledger.read(run).entries) == ledger.entries


def test_a_journal_with_studies_of_others_only_is_refused(tmp_path):
    run = tmp_path / "run"
    Ledger.open(run, GROUPS, PROBLEM).close()
    optuna.create_study(study_name="mine", storage=_stock((run, "")))
    run.rename(tmp_path / "renamed")
    for verb in (lambda: Ledger.read(tmp_path / "renamed"), lambda: Ledger.open(tmp_path / "renamed", GROUPS, PROBLEM)):
        with pytest.raises(
            ValueError, match=r"holds the studies run, mine, but no 'renamed'; was the directory renamed"
        ):
            verb()


def test_a_study_that_is_discarded_never_was(place):
    with begin(place) as ledger:
        ledger.discard()
    if place[1]:
        Ledger.refuse_existing(place[1], "run")
    begin(place, fresh=True).close()
    if place[1]:
        with pytest.raises(ValueError, match=r"study 'run': is in 'sqlite\+pysqlite:///.*' already; resume its run"):
            Ledger.refuse_existing(place[1], "run")


def test_a_run_that_exists_is_refused_when_a_new_one_is_wanted(place):
    begin(place, fresh=True).close()
    with pytest.raises(ValueError, match=r"there is one already; `autoprune resume .*run`"):
        begin(place, fresh=True)


def test_a_run_that_is_being_written_is_refused_until_its_controller_dies(place):
    def control(said):
        begin(place)
        said.send("open")
        time.sleep(600)

    mine, theirs = mp.get_context("fork").Pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork of a threaded process, Python >= 3.12
        other = mp.get_context("fork").Process(target=control, args=(theirs,))
        other.start()
    assert mine.recv() == "open"
    with pytest.raises(RunIsLive, match=rf"another controller \(process {other.pid} on "):
        begin(place)
    assert f"process {other.pid} " in holder(place[0])
    other.kill()
    other.join()
    begin(place).close()
    assert holder(place[0]) == ""


def test_a_ledger_killed_at_its_first_breath_begins_anew(place, monkeypatch):
    with monkeypatch.context() as patch:
        for kind in (optuna.storages.JournalStorage, optuna.storages.RDBStorage):
            patch.setattr(kind, "set_study_user_attr", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            begin(place)
    with pytest.raises(ValueError, match="in format 1, found nothing"):
        Ledger.read(place[0], url=place[1])
    begin(place, fresh=True).close()
    assert Ledger.read(place[0], url=place[1]).entries == ()


def test_widths_of_another_space_are_refused(place):
    with begin(place) as ledger, pytest.raises(ValueError, match="has 1 widths, but there are 2 groups"):
        ledger.start((3,), "proxy", "w")


def test_trials_of_somebody_else_are_noticed(place):
    with begin(place) as ledger:
        optuna.load_study(study_name="run", storage=_stock(place)).ask()
        with pytest.raises(ValueError, match="somebody else adds trials"):
            ledger.start((4, 8), "proxy", "w")
    with pytest.raises(ValueError, match="trial 0 was not written by autoprune"):
        Ledger.read(place[0], url=place[1])


def test_a_directory_without_a_ledger_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nothing/ledger\.log': no such file"):
        Ledger.read(tmp_path / "nothing")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(LedgerUnwritable, match="the directory cannot be made"):
        Ledger.open(tmp_path / "file" / "run", GROUPS, PROBLEM)


def test_an_old_ledger_always_loads(tmp_path):
    """tests/data/old-ledger was written by format 1 of autoprune 0.1.0; its facts are beside it."""
    run = shutil.copytree(OLD, tmp_path / "old-ledger")
    facts = json.loads((OLD / "facts.json").read_text())
    read = Ledger.read(run)
    since = {"genes": [], "probe": False}  # what trials got later
    assert [plain(t.__dict__) for t in read.trials] == [{**fact, **since} for fact in facts["trials"]]
    with Ledger.open(run, facts["groups"], facts["fingerprint"]) as ledger:
        assert ledger.entries == list(read.entries)
        assert ledger.start(tuple(facts["groups"].values()), "proxy", "w").number == len(facts["trials"])


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("postgresql://me:secret@host/db", "postgresql+psycopg2://me:secret@host/db"),
        ("postgres://host/db", "postgresql+psycopg2://host/db"),
        ("postgresql+psycopg2://host/db", "postgresql+psycopg2://host/db"),
        ("sqlite:///a.db", "sqlite+pysqlite:///a.db"),
        ("sqlite:///a.db?mode=rwc", "sqlite+pysqlite:///a.db?mode=rwc"),
    ],
)
def test_addresses(given, taken):
    assert address(given) == taken


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("results/run", "not the address of a database"),
        ("oracle://host/db", "unknown kind of database; known: post"),
        ("sqlite://", r"ledger 'sqlite://': is in memory, .* give a file, sqlite:///path\.db, or leave --ledger out"),
        ("sqlite:///", "is in memory"),
        ("sqlite:///:memory:", "ledger 'sqlite:///:memory:': is in memory"),
        ("sqlite+pysqlite://", "is in memory"),
        ("sqlite:///file::memory:?cache=shared&uri=true", "is in memory"),
        ("sqlite:///file:books?mode=memory&uri=true", "is in memory"),
    ],
)
def test_addresses_that_are_none(given, reason):
    with pytest.raises(ValueError, match=reason):
        address(given)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_ledger_in_memory_is_refused_before_anything_is_written(tmp_path, url):
    with pytest.raises(ValueError, match="is in memory"):
        Ledger.open(tmp_path / "run", GROUPS, PROBLEM, url=url)
    with pytest.raises(ValueError, match="is in memory"):
        refuse_password(url)  # what a search asks first
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["postgresql://me:secret@127.0.0.1:1/db", "postgresql://127.0.0.1:1/db?password=secret"]
)
def test_a_database_that_cannot_be_reached_is_said_without_the_password(tmp_path, url):
    with pytest.raises(ValueError, match=r"no connection .*check that the server runs") as caught:
        Ledger.open(tmp_path / "run", GROUPS, PROBLEM, url=url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://me:secret@host/db", "ledger 'postgresql://me:.*@host/db': the password would be kept"),
        ("postgresql://me@host/db?password=secret", "the password would be kept"),
        ("postgresql:/me:secret@host/db", "not the address of a database"),
        ("postgresql://me:secret@host:port/db", "not the address of a database"),
        ("oracle://me:secret@host/db", "unknown kind of database"),
    ],
)
def test_a_password_is_neither_kept_nor_shown(url, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        refuse_password(url)
    assert "secret" not in str(caught.value)
    refuse_password("postgresql://me@host/db")


def test_a_database_that_goes_away_is_said(tmp_path):
    url = f"sqlite:///{tmp_path}/books.db"
    with Ledger.open(tmp_path / "run", GROUPS, PROBLEM, url=url) as ledger:
        with sqlite3.connect(tmp_path / "books.db") as other:
            other.execute("ALTER TABLE trials RENAME TO gone")
        other.close()
        with pytest.raises(LedgerUnwritable, match="trial 0: the database does not take it"):
            ledger.start((4, 8), "proxy", "w")


def test_plain_is_what_json_gives_back():
    import numpy as np

    assert plain({"a": np.float64(0.1), "b": (1, np.arange(2)), 3: None}) == {"a": 0.1, "b": [1, [0, 1]], "3": None}
    with pytest.raises(ValueError, match="must be plain numbers"):
        plain({"a": object()})
