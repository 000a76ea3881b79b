"""`kill -9` at random moments, resumed until done: nothing told is lost, nothing evaluated more often than need be.

The searches are those of tests/data/toys.py. Where a controller works alone it is forked (a start takes milliseconds,
so that hundreds of moments can be tried); with workers it is a script in a process of its own, and so are they.
"""

import contextlib
import multiprocessing as mp
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from autoprune.ledger import Ledger
from autoprune.problem import TrialState

DATA = Path(__file__).parents[1] / "data"
sys.path.insert(0, str(DATA))
import toys  # noqa: E402

TORN = b'{"op_code":6,"worker_id":"a power cut came bef'


def facts(run):
    """All that must be the same in a resumed search and in one that was never stopped."""
    return [(t.number, t.widths, t.state, dict(t.metrics), t.fidelity, t.error) for t in Ledger.read(run).trials]


def num_evaluations(run):
    """Lines of the side file; each was written as its evaluation began."""
    return len((run / "side.txt").read_text().splitlines())


def size(run):
    try:
        return (run / "ledger.log").stat().st_size
    except OSError:
        return 0


def fork(run):
    """A controller with a worker of its own, in a process that starts at once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork of a threaded process, Python >= 3.12
        process = mp.get_context("fork").Process(target=toys.main, args=(str(run), 0))
        process.start()
    return process


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    process = fork(run)
    process.join()
    assert process.exitcode == 0
    return facts(run)


def kill_and_resume(run, seed, never_stopped):
    """One schedule of kills; returns how many there were."""
    rng, kills = random.Random(seed), 0
    while True:
        process = fork(run)
        moment = size(run) + rng.randint(1, 12_000)  # when the ledger has grown so far: often amid a tell
        while process.is_alive() and size(run) < moment:
            time.sleep(rng.choice((0, 0.0005)))
        process.kill()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        kills += 1
        told = [fact for fact in facts(run) if fact[2] is not TrialState.RUNNING] if size(run) > 1000 else []
        assert told == [fact for fact in never_stopped if fact[0] in {t[0] for t in told}]
        if rng.random() < 0.3:
            with open(run / "ledger.log", "ab") as file:
                file.write(TORN[: rng.randint(1, len(TORN))])
    assert facts(run) == never_stopped
    real = sum(not fact[3].get("cached") for fact in never_stopped)
    assert num_evaluations(run) <= real + kills
    return kills


@pytest.mark.parametrize("seed", range(20))
def test_one_worker_killed_at_random_moments_equals_never_stopped(tmp_path, seed, never_stopped):
    assert kill_and_resume(tmp_path / "run", seed, never_stopped) >= 1


@pytest.mark.slow
def test_two_hundred_schedules(tmp_path, never_stopped):
    kills = [kill_and_resume(tmp_path / str(seed) / "run", 1000 + seed, never_stopped) for seed in range(200)]
    print(f"\n{sum(kills)} kills in {len(kills)} schedules")


def kill_script_and_workers(run, seed, min_kills):
    """A controller and two workers as real processes, each may be killed; returns (kills, in flight at them)."""
    rng, kills, in_flight = random.Random(seed), 0, 0
    while True:
        command = [sys.executable, DATA / "toys.py", run, "2"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": ROOT})
        moment = size(run) + rng.randint(8_000, 25_000)
        while process.poll() is None and size(run) < moment:
            time.sleep(0.001)
        if kills < min_kills and process.poll() is None:
            lines = (run / "side.txt").read_text().splitlines()
            victims = [int(line.split()[1]) for line in lines[-2:]]
            if kills % 2 == 0:  # a worker in the middle of an evaluation, if it still lives
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rng.choice(victims), signal.SIGKILL)
                kills, in_flight = kills + 1, in_flight + 1
                moment = size(run) + rng.randint(2_000, 10_000)
                while process.poll() is None and size(run) < moment:
                    time.sleep(0.001)
            process.kill()
            kills, in_flight = kills + 1, in_flight + 2
        _, said = process.communicate(timeout=120)
        if process.returncode == 0:
            return kills, in_flight
        assert process.returncode == -signal.SIGKILL, said


ROOT = str(Path(__file__).parents[2])


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.slow) for s in range(1, 8))])
def test_controller_and_workers_killed_at_random_moments(tmp_path, seed):
    run = tmp_path / "run"
    kills, in_flight = kill_script_and_workers(run, seed, min_kills=2)
    assert kills >= 2
    record = Ledger.read(run)
    assert all(t.state is not TrialState.RUNNING for t in record.trials)
    real = [t for t in record.trials if not t.metrics.get("cached")]
    assert sum(t.fidelity == "proxy" for t in real) == toys.NUM_TRIALS
    assert sum(t.fidelity == "short" for t in real) == toys.FINALISTS[0]
    assert len({(t.widths, t.fidelity) for t in real if t.state is not TrialState.FAIL}) == sum(
        t.state is not TrialState.FAIL for t in real
    )
    assert sorted(e.order for e in record.entries) == list(range(len(record.entries)))
    assert len(real) <= num_evaluations(run) <= len(real) + in_flight
    for trial in real:  # each has the result of its own widths
        if trial.state is TrialState.COMPLETE:
            assert trial.metrics["batch_losses"] == toys.measure(trial)["batch_losses"]
