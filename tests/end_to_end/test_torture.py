"""Twenty seeded fault schedules of the two hundred of `make torture`: nothing told is lost, nothing runs needlessly."""

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
import faults
import postgresql

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kills and file limits as Linux has them")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The facts of a search that was never stopped."""
    return faults.never_stopped(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("seed", range(7))
def test_one_worker_killed_at_random_moments_equals_never_stopped(tmp_path, whole, seed):
    assert faults.alone(tmp_path / "run", random.Random(seed), whole).kills >= 1


@pytest.mark.parametrize("seed", range(4))
def test_torn_tails_equal_never_stopped(tmp_path, whole, seed):
    assert faults.alone(tmp_path / "run", random.Random(100 + seed), whole, torn=1.0).kills >= 1


@pytest.mark.parametrize("seed", range(3))
def test_a_clock_that_jumps_changes_nothing(tmp_path, whole, seed):
    assert faults.alone(tmp_path / "run", random.Random(200 + seed), whole, clock=True).kills >= 1


@pytest.mark.parametrize("seed", range(3))
def test_a_full_disk_costs_a_pause_or_a_resume(tmp_path, whole, seed):
    faults.full_disk(tmp_path / "run", random.Random(300 + seed), whole)


def test_a_file_that_may_not_grow_stops_the_search_resumably(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(faults.os, "getuid", lambda: 1000)  # one who may not mount
    assert faults.full_disk(tmp_path / "run", random.Random(303), whole).kills >= 1


@pytest.mark.skipif(postgresql.binaries() is None, reason="no PostgreSQL; `apt-get install postgresql` brings it")
def test_a_database_server_that_restarts_costs_nothing(tmp_path, whole):
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    assert faults.database(tmp_path / "run", random.Random(400), whole).kills >= 1


@pytest.mark.slow
def test_workers_and_controller_killed_at_random_moments(tmp_path):
    assert faults.with_workers(tmp_path / "run", random.Random(500), kills=2, controller=True).kills == 2


def test_the_check_finds_a_lost_and_a_needless_evaluation(tmp_path):
    """The examiner examined: a schedule that pretends nothing was in flight, and a line too few."""
    run, side = tmp_path / "run", tmp_path / "side.txt"
    faults.never_stopped(tmp_path)
    faults.check(run, side, faults.Report())
    lines = side.read_text().splitlines(keepends=True)
    side.write_text("".join([*lines, lines[0]]))
    with pytest.raises(AssertionError):
        faults.check(run, side, faults.Report())
    faults.check(run, side, faults.Report(in_flight=1))
    side.write_text("".join(lines[1:]))
    with pytest.raises(AssertionError):
        faults.check(run, side, faults.Report())
