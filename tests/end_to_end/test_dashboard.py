"""`optuna-dashboard` opens a run's ledger as it stands: after a kill, in a file and in a database."""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from autoprune.ledger import Ledger, holder, writers
from autoprune.ledger.database import address
from autoprune.problem import TrialState

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
import postgresql
import toys

BESIDE = Path(sys.executable).with_name("optuna-dashboard")
PROGRAM = str(BESIDE) if BESIDE.exists() else shutil.which("optuna-dashboard")
pytestmark = pytest.mark.skipif(not PROGRAM, reason="optuna-dashboard is not installed; pip install 'autoprune[dev]'")


@contextlib.contextmanager
def dashboard(place):
    """The program as a user starts it; yields what fetches from its API."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [PROGRAM, str(place), "--port", str(port), "--host", "127.0.0.1", "--server", "wsgiref"]
    said = tempfile.TemporaryFile()
    process = subprocess.Popen(command, stdout=said, stderr=said)

    def fetch(path):
        give_up = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/{path}", timeout=60) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError:
                raise
            except OSError:  # not listening yet
                assert process.poll() is None, said.seek(0) or said.read()[-500:]
                assert time.monotonic() < give_up
                time.sleep(0.05)

    try:
        yield fetch
    finally:
        process.kill()
        process.wait()
        said.close()


def fill(ledger):
    """One complete, one failed, one running trial; returns their widths."""
    widths = [tuple(range(k, k + len(toys.GROUPS))) for k in (1, 2, 3)]
    for number, width in enumerate(widths):
        ledger.start(width, "proxy" if number else "short", f"worker-{number}")
    metrics = {"loss": 0.25, "top1": 0.9, "batch_losses": [0.25] * 60}
    ledger.finish(replace(ledger.trials[0], state=TrialState.COMPLETE, metrics=metrics))
    ledger.finish(replace(ledger.trials[1], state=TrialState.FAIL, error="no room"))
    return widths


def check(study, widths):
    """What the dashboard must say of `fill`."""
    trials = study["trials"]
    assert [t["state"] for t in trials[:3]] == ["Complete", "Fail", "Running"]
    assert study["best_trials"][0]["number"] == 0
    assert trials[0]["values"] == [0.25]
    assert (study["directions"], study["objective_names"]) == (["minimize"], ["loss"])
    for trial, width in zip(trials, widths, strict=False):
        assert {p["name"]: int(p["param_external_value"]) for p in trial["params"]} == dict(
            zip(toys.GROUPS, width, strict=True)
        )
    attributes = [{a["key"]: a["value"] for a in trial["user_attrs"]} for trial in trials]
    assert [(a["fidelity"], a["owner"]) for a in attributes[:3]] == [
        ("short", "worker-0"), ("proxy", "worker-1"), ("proxy", "worker-2")
    ]  # fmt: skip
    assert attributes[0]["top1"] == "0.9"
    assert "no room" in attributes[1]["result"]
    assert {"key": "top1", "sortable": True} in study["union_user_attrs"]


def test_a_run_that_goes_on_after_a_kill_tore_its_ledger(tmp_path):
    log = tmp_path / "first" / "ledger.log"
    with Ledger.open(tmp_path / "first", toys.GROUPS, {"seed": 3}) as ledger:
        widths = fill(ledger)
    with open(log, "ab") as file:
        file.write(b'{"op_code":4,"worker_id":"some')  # kill -9 in the middle of a line
    with dashboard(log) as fetch:
        (summary,) = fetch("studies")["study_summaries"]
        assert summary["study_name"] == "first"
        check(fetch("studies/0?after=0"), widths)
        with Ledger.open(tmp_path / "first", toys.GROUPS, {"seed": 3}) as ledger:  # cuts the torn line off
            ledger.start(widths[0], "proxy", "worker-0")
            give_up = time.monotonic() + 60
            while len((study := fetch("studies/0?after=0"))["trials"]) < 4:  # it keeps what it read for 10 s
                assert time.monotonic() < give_up
                time.sleep(0.5)
            check(study, widths)
            ledger.finish(replace(ledger.trials[3], state=TrialState.COMPLETE, metrics={"loss": 1.0}))


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/books.db"
        return
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    if postgresql.binaries() is None:
        pytest.skip("no initdb in /usr/lib/postgresql or PATH; `apt-get install postgresql` brings it")
    with postgresql.running() as server:
        yield server.url


def test_a_database_and_who_writes_it(tmp_path, url):
    with Ledger.open(tmp_path / "first", toys.GROUPS, {"seed": 3}, url=url) as ledger:
        widths = fill(ledger)
        with dashboard(address(url)) as fetch:  # SQLAlchemy 2.1 wants the driver named: postgresql+psycopg2://
            (summary,) = fetch("studies")["study_summaries"]
            assert summary["study_name"] == "first"
            check(fetch(f"studies/{summary['study_id']}?after=0"), widths)
        record = Ledger.read(tmp_path / "first", url=url)
        assert writers(tmp_path / "first", record, url, "first") == ((ledger.me or holder(tmp_path / "first")),)
        elsewhere = (ledger.me,) if ledger.me else ()
        assert writers(tmp_path / "another machine", record, url, "first") == elsewhere
        assert writers(tmp_path / "another machine", record, url, "second") == ()
    give_up = time.monotonic() + 10  # the server notices in its own time that a connection has ended
    while writers(tmp_path / "first", record, url, "first"):
        assert time.monotonic() < give_up
        time.sleep(0.05)
