"""The coordinator of a search on a cluster, asked as workers and drivers ask it; no Ray."""

import subprocess
import sys
from pathlib import Path

import pytest

from autoprune.controller import MAX_END_DEATHS, SearchController
from autoprune.ledger import Ledger
from autoprune.problem import TrialState
from autoprune.schedule import Halving
from autoprune.workers.cluster.coordinator import Coordinator, Search, finalist

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "data"))
import toys  # noqa: E402


class Driver:
    """Opens desks; dies without a word."""

    def __init__(self, run):
        self.run, self.limit_s = run, 60.0

    def open(self, rungs=()):
        ledger = Ledger.open(self.run, toys.GROUPS, {})
        controller = SearchController(ledger, toys.Evolution(3), Halving(5, rungs))
        self.search = Search(ledger, controller, lambda job: self.limit_s)
        return self.search

    def die(self):
        """The kernel lets go of the lock of a killed process; what is in hand stays in the ledger as it was."""
        self.search.ledger.close()


@pytest.fixture
def driver(tmp_path):
    return Driver(tmp_path)


def test_a_candidate_is_not_blamed_for_the_deaths_of_drivers(driver):
    numbers = set()
    for _ in range(MAX_END_DEATHS + 1):
        coordinator = Coordinator(driver.open)
        coordinator.hello("worker-0")
        job, _ = coordinator.exchange("worker-0")
        numbers.add(job.number)
        driver.die()
    assert numbers == {0}
    (entry,) = Ledger.read(driver.run).entries
    assert (entry.trial.state, entry.deaths) == (TrialState.RUNNING, 0)


def test_a_ledger_that_cannot_be_written_at_the_start_is_told_and_no_error_of_the_constructor(driver, monkeypatch):
    Coordinator(driver.open).exchange("worker-0")
    driver.die()
    monkeypatch.setattr(SearchController, "release", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
    coordinator = Coordinator(driver.open)
    assert "no space left" in str(coordinator.news().error)
    assert coordinator.exchange("worker-0") == (None, 0.0)
    driver.die()


def test_a_candidate_is_blamed_for_the_deaths_of_workers(driver):
    coordinator = Coordinator(driver.open)
    for _ in range(3):
        coordinator.hello("worker-0")
        assert coordinator.exchange("worker-0")[0].number == 0
        coordinator.died("worker-0", "segmentation fault")
    assert coordinator.exchange("worker-0")[0].number == 1
    assert "killed its worker 3 times, at last: segmentation fault" in Ledger.read(driver.run).trials[0].error


def test_a_desk_that_was_made_again_leaves_every_job_to_its_worker(driver):
    first = Coordinator(driver.open)
    job, _ = first.exchange("worker-0")
    driver.die()
    coordinator = Coordinator(driver.open, again=True)
    assert coordinator.exchange("worker-1")[0].number != job.number
    assert coordinator.exchange("worker-0")[0] == job


def test_a_limit_that_was_not_known_is_known_later(driver):
    driver.limit_s = float("inf")
    coordinator = Coordinator(driver.open)
    job, limit_s = coordinator.exchange("worker-0")
    assert limit_s == coordinator.limit_s(job.number) == float("inf")
    driver.limit_s = 3.0
    assert coordinator.limit_s(job.number) == 3.0
    assert coordinator.limit_s(99) == float("inf")


def test_a_finalist_is_told_by_its_number_and_kept_under_the_name_that_had_it(driver):
    class Finals:
        def unpack(self):
            return lambda: driver.open((toys.FINALISTS,))

    coordinator, job = Coordinator(driver.open), None
    result = (-1, "")
    while (job := coordinator.exchange("worker-0", *result)[0]) is not None:
        result = job.number, toys.measure(job) if sum(job.widths) % 17 else "the loss is NaN"
    jobs = [job for job, _ in coordinator.finalists(Finals())]
    assert set(driver.search.controller.in_flight) == {finalist(k) for k in range(len(jobs))}
    for job in reversed(jobs):
        coordinator.tell(job.number, toys.measure(job))
    told = {t.number: t.worker for t in Ledger.read(driver.run).trials}
    assert [told[job.number] for job in jobs] == ["finalist-0", "finalist-1", "finalist-2"]


def test_finalists_that_cannot_be_ordered_stop_the_search_with_the_reason(driver):
    class Finals:
        def unpack(self):
            raise OSError("no space left")

    coordinator = Coordinator(driver.open)
    assert coordinator.finalists(Finals()) == []
    assert coordinator.is_over()
    assert "no space left" in str(coordinator.news().error)


def test_a_worker_that_cannot_be_started_again_is_given_up_and_the_others_go_on(driver):
    coordinator = Coordinator(driver.open)
    for worker in ("worker-0", "worker-1"):
        assert coordinator.hello(worker)
        coordinator.ready(worker)
    coordinator.died("worker-0", "killed")  # at work: no false start
    for count in range(3):
        assert not coordinator.is_over()
        assert coordinator.hello("worker-0")
        coordinator.died("worker-0", f"killed while starting {count}")
    assert not coordinator.hello("worker-0")  # Tune starts it once more: it goes at once
    coordinator.died("worker-0", "whatever comes late")
    assert coordinator.news().said == (
        "worker-0: died 3 times before it was ready, at last: killed while starting 2; its log is in Ray's session "
        "directory; the search goes on without it",
    )
    assert coordinator.exchange("worker-1")[0].number == 0
    assert (coordinator.is_over(), coordinator.news().error) == (False, None)
    for count in range(4):  # the last one
        coordinator.died("worker-1", "killed")
        assert coordinator.is_over() == (count == 3)
        assert coordinator.hello("worker-1") == (count < 3)
    assert "worker-1: died 3 times before it was ready" in str(coordinator.news().error)


@pytest.mark.parametrize(("is_chance", "was_ready"), [(True, False), (False, True), (False, False)])
def test_an_evaluator_that_cannot_be_built_stops_the_search_unless_that_was_chance(driver, is_chance, was_ready):
    coordinator = Coordinator(driver.open)
    for worker in ("worker-0", "worker-1"):
        coordinator.hello(worker)
    if was_ready:
        coordinator.ready("worker-1")
        coordinator.hello("worker-1")
    coordinator.broken("worker-1", "CUDA error: out of memory", is_chance)
    assert coordinator.is_over() == (not is_chance and not was_ready)
    assert ("worker-1: the evaluator cannot be built" in str(coordinator.news().error)) == coordinator.is_over()
    coordinator.broken("worker-0", "CUDA error: out of memory", True)
    assert coordinator.is_over()


def test_a_worker_whose_device_breaks_leaves_its_job_and_is_no_false_start(driver):
    coordinator = Coordinator(driver.open)
    for _ in range(5):
        coordinator.hello("worker-0")
        coordinator.ready("worker-0")
        coordinator.exchange("worker-0")
        coordinator.breaks("worker-0", "its device is broken: an illegal memory access")
        coordinator.died("worker-0", "its process died")
    assert not coordinator.is_over()
    assert [e.deaths for e in Ledger.read(driver.run).entries] == [3, 2]
    first = Ledger.read(driver.run).trials[0]
    assert first.error == "killed its worker 3 times, at last: its device is broken: an illegal memory access"


HUNG = """
import math, time
from autoprune.workers.cluster import worker
worker.AGAIN_S = 0.1
answers = iter([math.inf, 3600.0])
with worker.time_limit(math.inf, lambda: next(answers, 3600.0)):
    time.sleep(0.2)
print("well", flush=True)
answers = iter([math.inf, OSError, 0.5])
with worker.time_limit(math.inf, lambda: next(answers)):
    time.sleep(3600)
print("too late", flush=True)
"""


def test_a_worker_that_hangs_before_a_limit_is_known_ends_once_it_is():
    ended = subprocess.run([sys.executable, "-c", HUNG], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode != 0
    assert ended.stdout == "well\n"
    assert "Timeout" in ended.stderr
