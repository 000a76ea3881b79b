"""Seeded fault schedules: a toy search is killed, cut, starved, and resumed until it is done; then it is checked.

Each kind of schedule is a function (run, rng) -> Report. Run by tests/end_to_end/test_torture.py (a few of each) and by
results/benchmarks/torture.py (two hundred). Controllers that work alone are forked: a start takes milliseconds.
"""

from __future__ import annotations

import contextlib
import datetime
import multiprocessing as mp
import os
import random
import resource
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import postgresql
import toys

from autoprune.controller import SearchController
from autoprune.ledger import Ledger
from autoprune.problem import TrialState
from autoprune.schedule import Halving
from autoprune.workers import run_here, run_processes

TORN = b'{"op_code":6,"worker_id":"a power cut came bef'
JUMPS_S = (-3e8, -86_400.0, -1.0, 0.0, 3_600.0, 3e8)  # of the wall clock
DISK = 2**20  # bytes of the small disk
PATIENCE_S = 120.0


@dataclass
class Report:
    """What a schedule did.

    Attributes:
        kills: Processes killed, disks filled, servers restarted.
        in_flight: Evaluations that were under way at the kills: at most so many may have been run again.
        evaluations: Really run, each counted as it began.
        trials: Asked and not answered from the ledger.
    """

    kills: int = 0
    in_flight: int = 0
    evaluations: int = 0
    trials: int = 0


def open_search(run, url=""):
    """The toy search on its ledger, from whatever was told so far."""
    ledger = Ledger.open(run, toys.GROUPS, {"seed": 3}, url=url)
    return SearchController(ledger, toys.Evolution(3), Halving(toys.NUM_TRIALS, (toys.FINALISTS,)))


def search(run, side, url="", workers=0, pause_s=0.002, clock=None, most_bytes=0):
    """Run or resume; `clock` seeds a wall clock that jumps, `most_bytes` is where no file may grow any more."""
    sys.stderr = open(os.devnull, "w")  # many of them end with an error, as they should
    if clock is not None:
        jumping(random.Random(clock))
    if most_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))
    controller = open_search(run, url)
    with controller.ledger:
        if workers:
            run_processes(controller, toys.MakeEvaluator(str(side), 0.02), workers)
        else:
            run_here(controller, toys.Evaluator(str(side), pause_s))


def jumping(rng):
    """Let the wall clock jump with every look at it (the monotonic one cannot)."""
    real = time.time

    class Jumping(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls.fromtimestamp(real() + rng.choice(JUMPS_S), tz)

    time.time = lambda: real() + rng.choice(JUMPS_S)
    for name, module in list(sys.modules.items()):
        if name.startswith(("autoprune", "optuna")) and getattr(module, "datetime", None) is datetime.datetime:
            module.datetime = Jumping


def fork(run, side, **more):
    """A search in a process that starts at once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork of a threaded process, Python >= 3.12
        process = mp.get_context("fork").Process(target=search, args=(str(run), str(side)), kwargs=more)
        process.start()
    return process


def facts(run, url=""):
    """All that must be the same in a resumed search and in one that was never stopped."""
    trials = Ledger.read(run, url=url).trials
    return [(t.number, t.widths, t.state, dict(t.metrics), t.fidelity, t.error) for t in trials]


def told(run):
    """Those of the finished trials, if there is a ledger yet."""
    return [fact for fact in facts(run) if fact[2] is not TrialState.RUNNING] if size(run) > 1000 else []


def size(run):
    """Bytes of the ledger."""
    try:
        return (run / "ledger.log").stat().st_size
    except OSError:
        return 0


def begun(side):
    """Lines of the side file, each written as an evaluation began: (number, pid)."""
    try:
        return [tuple(map(int, line.split())) for line in side.read_text().splitlines()]
    except OSError:
        return []


def until(condition, process):
    """Wait for it, or for the end of the process; False if that came first."""
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        if process.exitcode is not None:
            return False
        assert time.monotonic() < give_up, "the search stands still"
        time.sleep(0.0005)
    return process.exitcode is None


def check(run, side, report, url="", before=()):
    """Every asked trial has ended exactly once, nothing told is lost, and no more was run again than was in flight."""
    record = Ledger.read(run, url=url)
    real = [t for t in record.trials if not t.metrics.get("cached")]
    report.trials, report.evaluations = len(real), len(begun(side))
    assert all(t.state is not TrialState.RUNNING for t in record.trials)
    assert sorted(e.order for e in record.entries) == list(range(len(record.entries)))
    assert sum(t.fidelity == "proxy" for t in real) == toys.NUM_TRIALS
    assert sum(t.fidelity == "short" for t in real) == toys.FINALISTS[0]
    good = [t for t in real if t.state is not TrialState.FAIL]
    assert len({(t.widths, t.fidelity) for t in good}) == len(good)
    assert {n for n, _ in begun(side)} == {t.number for t in real}
    assert report.trials <= report.evaluations <= report.trials + report.in_flight, report
    for trial in real:  # each has the result of its own widths
        if trial.state is TrialState.COMPLETE:
            assert trial.metrics["batch_losses"] == toys.measure(trial)["batch_losses"]
    now = {fact[0]: fact for fact in facts(run, url)}
    assert all(now[fact[0]] == fact for fact in before)
    again = open_search(run, url)  # what is replayed is what was lived, and there is nothing left to do
    with again.ledger:
        assert again.ask("anybody") is None
        by_order = sorted((e for e in record.entries if e.trial.fidelity == "proxy"), key=lambda e: e.order)
        assert list(again._strategy.population) == [e.trial for e in by_order][-again._strategy.population.maxlen :]
    return report


def never_stopped(folder):
    """The facts of a search that nothing happened to."""
    process = fork(folder / "run", folder / "side.txt")
    process.join()
    assert process.exitcode == 0
    return facts(folder / "run")


def alone(run, rng, whole, torn=0.0, clock=False):
    """A controller that evaluates by itself, killed when its ledger has grown to a random size: often amid a tell.

    Args:
        run: Where.
        rng: Of the moments.
        whole: The facts of a search that was never stopped; the outcome must be the same.
        torn: Probability that a kill leaves half a record behind.
        clock: Whether the wall clock jumps.
    """
    report, side = Report(), run.parent / "side.txt"
    while True:
        process = fork(run, side, clock=rng.random() if clock else None)
        moment = size(run) + rng.randint(1, 25_000)
        until(lambda moment=moment: size(run) >= moment, process)
        process.kill()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        report.kills, report.in_flight = report.kills + 1, report.in_flight + 1
        known = told(run)
        assert known == [fact for fact in whole if fact[0] in {k[0] for k in known}]
        if rng.random() < torn and size(run):
            with open(run / "ledger.log", "ab") as file:
                file.write(TORN[: rng.randint(1, len(TORN))])
    assert facts(run) == whole
    return check(run, side, report)


def full_disk(run, rng, whole):
    """The disk fills up, for a moment or until the search gives up; with room it goes on."""
    report, side = Report(), run.parent / "side.txt"
    with small_disk(run) as ballast:
        while True:
            moment = size(run) + rng.randint(1_000, 40_000)
            if ballast is None:  # no right to mount: a file that may not grow stands for the disk
                process, brief = fork(run, side, most_bytes=moment), False
                process.join(PATIENCE_S)
            else:
                process, brief = fork(run, side), rng.random() < 0.4
                if until(lambda moment=moment: size(run) >= moment, process):
                    fill(ballast)
                    process.join(0.1 if brief else PATIENCE_S)
                ballast.unlink(missing_ok=True)
                process.join(PATIENCE_S)
            known = told(run)
            assert known == [fact for fact in whole if fact[0] in {k[0] for k in known}]
            if process.exitcode == 0:
                break
            assert process.exitcode == 1  # in good order
            report.kills, report.in_flight = report.kills + 1, report.in_flight + 1
        assert facts(run) == whole
        return check(run, side, report)


@contextlib.contextmanager
def small_disk(run):
    """`run` on a disk of its own; yields where a file that fills it may lie, or None if one may not mount."""
    run.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", run]
    mounted = os.getuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0
    try:
        yield run / "ballast" if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "-l", run], check=True)


def fill(path):
    """Write until there is no room."""
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)) == 4096:
            pass


def with_workers(run, rng, kills, controller):
    """A controller with two child processes.

    Args:
        run: Where.
        rng: Of the moments.
        kills: At most so many.
        controller: Whether it is killed too, in turn with the workers.
    """
    report, side, known = Report(), run.parent / "side.txt", []
    while True:
        process = fork(run, side, workers=2)
        while report.kills < kills:
            count = len(begun(side)) + rng.randint(2, 12)
            if not until(lambda count=count: len(begun(side)) >= count, process):
                break
            known = told(run)
            if controller and report.kills % 2:
                process.kill()
                report.kills, report.in_flight = report.kills + 1, report.in_flight + 2
                break
            with contextlib.suppress(ProcessLookupError):  # it lives, and is at this evaluation or has just told it
                os.kill(begun(side)[-1][1], signal.SIGKILL)
            report.kills, report.in_flight = report.kills + 1, report.in_flight + 1
        process.join(PATIENCE_S)
        if process.exitcode == 0:
            return check(run, side, report, before=known)
        assert process.exitcode == -signal.SIGKILL, process.exitcode


def database(run, rng, whole, kill=0.3):
    """A ledger in PostgreSQL: the server goes down as in a power cut, and comes back; some controllers die too."""
    report, side = Report(), run.parent / "side.txt"
    with postgresql.running() as server:
        process = fork(run, side, url=server.url, pause_s=0.01)
        for _ in range(2):
            count = len(begun(side)) + rng.randint(3, 15)
            if not until(lambda count=count: len(begun(side)) >= count, process):
                break
            time.sleep(rng.random() * 0.02)
            report.kills += 1
            if rng.random() < kill:
                process.kill()
                process.join()
                report.in_flight += 1
            server.stop()
            time.sleep(rng.random() * 0.5)
            server.start()
            if process.exitcode is not None:
                process = fork(run, side, url=server.url, pause_s=0.01)
        process.join(PATIENCE_S)
        assert process.exitcode == 0, process.exitcode
        assert facts(run, server.url) == whole
        return check(run, side, report, url=server.url)
