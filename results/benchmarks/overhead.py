"""What a candidate costs besides its evaluation, and overhead.md beside this file.

    python results/benchmarks/overhead.py [--history 1000] [--count 300] [--groups 30] [--profile]

A run of evolution over 30 groups with 1,000 finished trials goes on for 300 candidates that cost nothing: in this
process, with one child process and with two. A candidate is the wall time from the first tell to the last, shared out;
CPU is what this process computed meanwhile, which other work on the machine disturbs less. The breakdown is of the same
asks and tells, timed inside; the pipe is what a job and its result take there and back, to a child that does nothing
else. The journal file lies on a disk (its fsync is what a tell waits for) and on a RAM disk. *Depth*: half of the
groups may have width 0.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import platform
import pstats
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

import toy_problem  # noqa: E402

from autoprune.controller import SearchController  # noqa: E402
from autoprune.files import write_text  # noqa: E402
from autoprune.ledger import Ledger  # noqa: E402
from autoprune.schedule import Halving  # noqa: E402
from autoprune.strategies import make, open_with  # noqa: E402
from autoprune.workers import run_here, run_processes  # noqa: E402


@dataclass
class Stopwatch:
    """Seconds of each call of what it has been put around, by name; calls inside count for both."""

    times: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def around(self, thing: Any, method: str, name: str) -> None:
        """Time a method of one object."""
        plain: Callable[..., Any] = getattr(thing, method)

        def timed(*args: Any, **more: Any) -> Any:
            begin = time.perf_counter()
            try:
                return plain(*args, **more)
            finally:
                self.times[name].append(time.perf_counter() - begin)

        setattr(thing, method, timed)

    def clear(self) -> None:
        """Forget what was before."""
        self.times.clear()


class Meter:
    """A listener that notes when the first of the counted candidates is asked and when each is told."""

    def __init__(self, watch: Stopwatch) -> None:
        self.told: list[float] = []
        self.watch, self.begin_s = watch, 0.0

    def on_asked(self, job: Any) -> None:
        """A job is handed out."""

    def on_told(self, trial: Any) -> None:
        """The first result starts the clock: children take their time to be born."""
        if not self.told:
            self.watch.clear()
            self.begin_s = time.process_time()
        self.told.append(time.perf_counter())


def controller(run: Path, problem: Any, num_trials: int) -> SearchController:
    """Evolution after the closed forms, as the command line has it by default."""
    strategy = open_with("closed", make("evolution", problem, 0, num_trials=num_trials))
    ledger = Ledger.open(run, {g.name: g.size for g in problem.space.groups}, {"seed": 0})
    return SearchController(ledger, strategy, Halving(num_trials, ((0, "short"),)), project=problem.repair)


def measure(folder: Path, problem: Any, num_trials: int, workers: int, profile: bool) -> dict[str, float]:
    """Milliseconds per candidate, and of its parts."""
    run = Path(tempfile.mkdtemp(dir=folder)) / "run"
    shutil.copytree(folder / "history", run)
    watch, loss = Stopwatch(), toy_problem.Loss(problem.space.full)
    c = controller(run, problem, num_trials)
    meter = Meter(watch)
    watch.around(c, "ask", "ask")
    watch.around(c, "tell", "tell")
    watch.around(c._strategy, "propose", "propose")
    watch.around(problem.feasibility, "project", "project")
    watch.around(c.ledger, "start", "write a start")
    watch.around(c.ledger, "finish", "write a result")
    profiler = cProfile.Profile(time.process_time)
    with c.ledger:
        if profile:
            profiler.enable()
        if workers:
            run_processes(c, toy_problem.MakeLoss(problem.space.full), workers, listener=meter)
        else:
            run_here(c, loss, listener=meter)
        profiler.disable()
        cpu_s = time.process_time() - meter.begin_s
    if profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(25)
    done = len(meter.told) - 1
    parts = {name: 1e3 * sum(times) / done for name, times in watch.times.items()}
    shutil.rmtree(run.parent)
    return {"candidate": 1e3 * (meter.told[-1] - meter.told[0]) / done, "CPU": 1e3 * cpu_s / done, **parts}


def pipe_ms(problem: Any, count: int) -> float:
    """A job to a child and its result back, both ready: median."""
    from autoprune.controller import Job
    from autoprune.workers import Slot
    from autoprune.workers.child import Child
    from autoprune.workers.pickle_file import PickleFile

    recipe = PickleFile(toy_problem.MakeLoss(problem.space.full))
    child, times = Child("worker-0", recipe, Slot("cpu", 1)), []
    try:
        child.pipe.poll(60)
        child.hear()
        for number in range(count):
            begin = time.perf_counter()
            child.work(Job(number, problem.space.full, "proxy", (0.5,) * 16))
            child.pipe.poll(60)
            child.hear()
            times.append(time.perf_counter() - begin)
    finally:
        child.end()
        recipe.close()
    return 1e3 * statistics.median(times)


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--history", type=int, default=1000, help="finished trials before")
    parser.add_argument("--count", type=int, default=300, help="candidates that are timed")
    parser.add_argument("--groups", type=int, default=30)
    parser.add_argument("--profile", action="store_true", help="print where the time goes, in this process")
    parser.add_argument("--to", type=Path, default=Path(__file__).with_suffix(".md"), help="where the table goes")
    chosen = parser.parse_args()
    problems = {depth: toy_problem.problem(chosen.groups, depth=depth) for depth in (False, True)}
    problem, ram = problems[False], Path("/dev/shm")
    places = {"RAM": (ram, False), "RAM, depth": (ram, True)} if ram.is_dir() else {}
    places |= {} if chosen.profile else {"disk": (Path(tempfile.gettempdir()), False)}
    rows, folders = [], {p: Path(tempfile.mkdtemp(prefix="overhead-", dir=at)) for p, (at, _) in places.items()}
    try:
        for place, folder in folders.items():
            problem = problems[places[place][1]]
            with (c := controller(folder / "history", problem, chosen.history)).ledger:
                run_here(c, toy_problem.Loss(problem.space.full))
            for workers in (0,) if chosen.profile or "depth" in place else (0, 1, 2):
                row = measure(folder, problem, chosen.history + chosen.count, workers, chosen.profile)
                where = f"{workers} child process{'es' * (workers > 1)}" if workers else "this process"
                rows.append((place, where, row))
                print(place, where, {k: round(v, 2) for k, v in row.items()}, flush=True)
    finally:
        for folder in folders.values():
            shutil.rmtree(folder)
    if not chosen.profile:
        write_text(chosen.to, page(rows, pipe_ms(problem, chosen.count), chosen))


def page(rows: list[tuple[str, str, dict[str, float]]], pipe: float, chosen: argparse.Namespace) -> str:
    """The page."""
    parts = ["candidate", "CPU", "ask", "propose", "project", "write a start", "tell", "write a result"]
    return "\n".join(
        [
            "# What a candidate costs besides its evaluation",
            "",
            f"Evolution, {chosen.groups} groups, {chosen.count} candidates after {chosen.history:,} trials, all in ms "
            "per candidate (mean).",
            f"{platform.machine()}, {len(os.sched_getaffinity(0))} of {os.cpu_count()} cores (load "
            f"{os.getloadavg()[0]:.1f} at the end). Python {platform.python_version()}, Optuna {version('optuna')}.",
            "Ask = propose (projection and what is around it) + its record; tell = its two records. "
            "CPU: of the controller's process.",
            "",
            f"| ledger on | evaluated in | {' | '.join(f'**{p}**' if p == 'candidate' else p for p in parts)} |",
            f"|---|---|{'---:|' * len(parts)}",
            *(f"| {a} | {b} | {' | '.join(f'{r.get(p, 0):.2f}' for p in parts)} |" for a, b, r in rows),
            "",
            f"Pipe, a job to a child process and its result back: {pipe:.2f} ms (median).",
            "",
        ]
    )


if __name__ == "__main__":
    main()
