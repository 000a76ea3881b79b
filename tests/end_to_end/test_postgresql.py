"""A ledger in PostgreSQL: a private server in a temporary folder, started and killed by the test."""

import multiprocessing as mp
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

import optuna
import pytest

from autoprune.errors import LedgerUnwritable, RunIsLive
from autoprune.ledger import Ledger

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
import postgresql
import toys

pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
if postgresql.binaries() is None:
    text = "no initdb in /usr/lib/postgresql or PATH; `apt-get install postgresql` brings it"
    pytest.skip(text, allow_module_level=True)


@pytest.fixture(scope="module")
def server():
    with postgresql.running() as running:
        yield running


def fork(run, url):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork of a threaded process, Python >= 3.12
        process = mp.get_context("fork").Process(target=toys.main, args=(str(run), 0, url))
        process.start()
    return process


def facts(run, url=""):
    trials = Ledger.read(run, url=url).trials
    return [(t.number, t.widths, t.state, dict(t.metrics), t.fidelity, t.error) for t in trials]


def test_a_search_in_a_database_survives_kills_and_equals_one_in_a_file(server, tmp_path):
    fork(tmp_path / "file", "").join()
    run, rng, kills = tmp_path / "killed", random.Random(5), 0
    while (process := fork(run, server.url)) and process.exitcode is None:
        side = run / "side.txt"
        before = len(side.read_text().splitlines()) if side.exists() else 0
        enough = before + rng.randint(4, 15)
        while process.is_alive() and (not side.exists() or len(side.read_text().splitlines()) < enough):
            time.sleep(0.001)
        time.sleep(rng.random() * 0.02)
        process.kill()
        process.join()
        if process.exitcode == 0:
            break
        kills += 1
    assert kills >= 2
    assert facts(run, server.url) == facts(tmp_path / "file")
    real = sum(not fact[3].get("cached") for fact in facts(tmp_path / "file"))
    assert real <= len((run / "side.txt").read_text().splitlines()) <= real + kills
    study = optuna.load_study(study_name="killed", storage=server.url.replace("postgresql:", "postgresql+psycopg2:"))
    assert study.best_value == min(fact[3]["loss"] for fact in facts(run, server.url) if "loss" in fact[3])
    assert study.best_trial.params.keys() == toys.GROUPS.keys()


def test_one_controller_per_study_whichever_directory_it_comes_from(server, tmp_path):
    def hold(said):
        Ledger.open(tmp_path / "here" / "run", toys.GROUPS, {}, url=server.url)
        said.send("open")
        time.sleep(600)

    mine, theirs = mp.get_context("fork").Pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        other = mp.get_context("fork").Process(target=hold, args=(theirs,))
        other.start()
    assert mine.recv() == "open"
    with pytest.raises(RunIsLive, match=r"study 'run': another controller is writing it in 'postgresql\+psycopg2://"):
        Ledger.open(tmp_path / "there" / "run", toys.GROUPS, {}, url=server.url)
    Ledger.open(tmp_path / "there" / "another", toys.GROUPS, {}, url=server.url).close()
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    give_up = time.monotonic() + 10  # the server notices the death of a client in its own time
    while True:
        try:
            Ledger.open(tmp_path / "there" / "run", toys.GROUPS, {}, url=server.url).close()
            break
        except RunIsLive:
            assert time.monotonic() < give_up
            time.sleep(0.05)


def test_a_server_that_goes_away_stops_the_search_and_loses_nothing(server, tmp_path):
    ledger = Ledger.open(tmp_path / "gone", toys.GROUPS, {}, url=server.url)
    ledger.start((1, 2, 3, 4, 5, 6), "proxy", "w0")
    server.stop()
    try:
        with pytest.raises(LedgerUnwritable, match=r"the connection is gone .*; resume when the server is back"):
            ledger.start((2, 2, 3, 4, 5, 6), "proxy", "w0")
        ledger.close()
        with pytest.raises(ValueError, match=r"no connection .*check that the server runs"):
            Ledger.open(tmp_path / "gone", toys.GROUPS, {}, url=server.url)
    finally:
        server.start()
    with Ledger.open(tmp_path / "gone", toys.GROUPS, {}, url=server.url) as again:
        assert [t.widths for t in again.trials] == [(1, 2, 3, 4, 5, 6)]
        assert again.start((2, 2, 3, 4, 5, 6), "proxy", "w0").number == 1
