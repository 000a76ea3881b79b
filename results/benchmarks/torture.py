"""Two hundred seeded fault schedules, each checked for exactness, and torture.md beside this file.

    python results/benchmarks/torture.py [--jobs 2] [--only KIND ...] [--share 1.0]     # make torture

The schedules are those of tests/data/faults.py and tests/data/ray_faults.py; twenty run with the tests. Each one kills,
cuts or starves a toy search of 43 evaluations at random moments, resumes it until it is done, and checks: every asked
trial has ended exactly once; what was told before a fault is there, unchanged, after it; evaluations exceed the trials
asked by at most those in flight at the faults; a controller made from the ledger knows what the last one knew. Those
with one worker must equal the search that was never stopped, fact by fact.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing as mp
import os
import platform
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "data")]

from autoprune.files import write_text  # noqa: E402

KINDS = {  # kind -> (schedules, what happens)
    "controller": (60, "kill -9 of a controller that evaluates by itself"),
    "torn": (30, "the same, half a record left at the ledger's end after each"),
    "clock": (20, "the same, the wall clock jumping by up to ten years with every look at it"),
    "disk": (20, "the disk fills up: for a moment, or until the search stops"),
    "workers": (15, "kill -9 of child processes, two at work"),
    "both": (15, "kill -9 of child processes and of their controller in turn"),
    "database": (15, "PostgreSQL goes down at once and restarts, twice; some controllers die too"),
    "ray actors": (15, "kill -9 of a Ray worker and of the actor with the controller"),
    "ray node": (10, "a whole Ray node is lost"),
}


@dataclass
class Row:
    """One schedule.

    Attributes:
        kind: Of `KINDS`.
        seed: Of its moments.
        seconds: It took.
        report: What it did; None if it failed.
        error: Why.
    """

    kind: str
    seed: int
    seconds: float = 0.0
    report: Any = None
    error: str = ""


def one(kind: str, seed: int, whole: Any, cluster: Any = None) -> Row:
    """Run one schedule in a folder of its own."""
    import faults

    folder, row, rng = Path(tempfile.mkdtemp(prefix="autoprune-torture-")), Row(kind, seed), random.Random(seed)
    run, begin = folder / "run", time.monotonic()

    def on_ray() -> Any:
        import ray_faults

        return ray_faults.on_ray(cluster, run, rng, kind.removeprefix("ray "))

    kinds: dict[str, Callable[[], Any]] = {
        "controller": lambda: faults.alone(run, rng, whole),
        "torn": lambda: faults.alone(run, rng, whole, torn=1.0),
        "clock": lambda: faults.alone(run, rng, whole, clock=True),
        "disk": lambda: faults.full_disk(run, rng, whole),
        "workers": lambda: faults.with_workers(run, rng, 3, controller=False),
        "both": lambda: faults.with_workers(run, rng, 4, controller=True),
        "database": lambda: faults.database(run, rng, whole),
        "ray actors": on_ray,
        "ray node": on_ray,
    }
    try:
        row.report = kinds[kind]()
        shutil.rmtree(folder)
    except Exception as error:
        row.error = f"{type(error).__name__}: {error} ({folder})"
        traceback.print_exc()
    row.seconds = time.monotonic() - begin
    return row


def schedules(kinds: list[str], share: float) -> Iterator[tuple[str, int]]:
    """Kind and seed of each."""
    for number, (kind, (count, _)) in enumerate(KINDS.items()):
        if kind in kinds:
            yield from ((kind, 10_000 * number + seed) for seed in range(round(count * share)))


def missing() -> set[str]:
    """Kinds that cannot be run here."""
    import postgresql

    return {k for k in KINDS if k.startswith("ray") and importlib.util.find_spec("ray") is None} | (
        {"database"} if postgresql.binaries() is None or importlib.util.find_spec("psycopg2") is None else set()
    )


def table(rows: list[Row], seconds: float, jobs: int) -> str:
    """The page."""
    done = [r for r in rows if r.report]
    lines = [
        "# Fault schedules",
        "",
        f"`make torture`: {len(rows)} schedules in {seconds:.0f} s, {jobs} at a time, {len(rows) - len(done)} failed.",
        f"{platform.machine()}, {os.cpu_count()} cores (load {os.getloadavg()[0]:.1f} at the end). "
        f"Python {platform.python_version()}, Optuna {version('optuna')}"
        + (f", Ray {version('ray')}." if any(r.kind.startswith("ray") for r in rows) else "."),
        "",
        "Each is checked as the script says: every asked trial ended once, nothing told lost, no more run again",
        "than was in flight at the faults (the bound). Extra: evaluations of candidates that were evaluated before.",
        "",
        "| kind | schedules | failed | faults | evaluations | extra | bound | seconds each |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for kind in [*KINDS, ""]:
        of = [r for r in rows if kind in (r.kind, "")]
        good = [r for r in of if r.report]
        if of:
            sums = [sum(getattr(r.report, n) for r in good) for n in ("kills", "evaluations", "trials", "in_flight")]
            kills, evaluations, trials, in_flight = sums
            mean_s = sum(r.seconds for r in of) / len(of)
            lines.append(
                f"| {kind or '**all**'} | {len(of)} | {len(of) - len(good)} | {kills} | {evaluations:,} | "
                f"{evaluations - trials} | {in_flight} | {mean_s:.1f} |"
            )
    lines += ["", *(f"- {kind}: {what}" for kind, (_, what) in KINDS.items())]
    lines += ["", *(f"- FAILED {r.kind} {r.seed}: {r.error}" for r in rows if r.error)]
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    """Run them all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2, help="schedules at a time (those on Ray: one)")
    parser.add_argument("--only", nargs="*", choices=list(KINDS), default=list(KINDS), help="kinds")
    parser.add_argument("--share", type=float, default=1.0, help="of the schedules of each kind")
    parser.add_argument("--to", type=Path, default=Path(__file__).with_suffix(".md"), help="where the table goes")
    chosen = parser.parse_args()
    import faults

    for kind in sorted(missing() & set(chosen.only)):
        print(f"{kind}: cannot be run here (Ray or PostgreSQL is not installed)")
    plan = list(schedules([k for k in chosen.only if k not in missing()], chosen.share))
    begin, rows = time.monotonic(), []

    def keep(row: Row) -> None:
        rows.append(row)
        print(f"{time.monotonic() - begin:6.0f} s  {row.kind} {row.seed}: {row.error or row.report}", flush=True)
        write_text(chosen.to, table(rows, time.monotonic() - begin, chosen.jobs))

    with tempfile.TemporaryDirectory() as folder:
        whole = faults.never_stopped(Path(folder))
    with ProcessPoolExecutor(chosen.jobs, mp.get_context("spawn")) as pool:
        for done in [pool.submit(one, k, s, whole) for k, s in plan if not k.startswith("ray")]:
            keep(done.result())
    with ExitStack() as stack:
        on_ray, cluster = [(k, s) for k, s in plan if k.startswith("ray")], None
        if on_ray:
            import ray_faults

            cluster = stack.enter_context(ray_faults.cluster())
        for kind, seed in on_ray:
            keep(one(kind, seed, None, cluster))
    failed = sum(not row.report for row in rows)
    print(f"{len(rows)} schedules, {failed} failed, {time.monotonic() - begin:.0f} s; {chosen.to}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
