"""How many workers a search keeps busy, and scaling.md beside this file.

    python results/benchmarks/scaling.py [--workers 1 8 64 512] [--policies evolution ...] [--waves 8]
    python results/benchmarks/scaling.py --real --data ../shared/data      # 2 child processes against 1

Simulated (autoprune.workers.simulated): the real controller, a real ledger on a RAM disk, the real strategy; candidates
of about 4 s (log-normal, 10 %, so they end in any order). The controller serves one worker at a time, and each ask and
tell takes the CPU time that it really took, plus `--disk-ms` for each tell: a disk's fsync. `--waves` candidates per
worker are searched, at least 100 in all, and half as many per worker beyond 64. "Steady" is the fraction of the ideal
throughput until the last candidate begins; "whole" counts the tail too, in which there is nothing left to hand out:
with 8 waves, half a wave of it is 6 % by construction, whatever the policy. The rate is that of a controller that does
nothing else.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

import numpy as np  # noqa: E402
import toy_problem  # noqa: E402

from autoprune.controller import Job, SearchController  # noqa: E402
from autoprune.files import write_text  # noqa: E402
from autoprune.ledger import Ledger  # noqa: E402
from autoprune.schedule import Halving  # noqa: E402
from autoprune.strategies import STRATEGIES, make, open_with  # noqa: E402
from autoprune.workers.simulated import simulate  # noqa: E402
from autoprune.workers.simulation import Simulation  # noqa: E402

TURNS = 2  # of each number of real workers
SECONDS = 4.0
CLOSED = ("uniform", "global_ranking", "knapsack", "exemplars")  # one answer: nothing to search
BAR = 0.95
GP_MOST = 200
MANY = 64  # up to so many the bar holds


BEYOND = """Beyond it, what saturates is the controller, one process that serves one
worker at a time: at its rate (candidates a second: {need}) workers stand in line. The strategy's question is the most
of it (tpe's and the rounds' grow with the trials told); a tell is the ledger's and the disk's.

With many workers the plan of netadapt and of the scans does not wait: what the round's missing results would most
likely lead to is measured in advance, then neighbours of it; and netadapt takes fewer, longer rounds. amc learns once
a wave of episodes that ran side by side. gp's searches are three waves of 64, the first of which knows nothing."""


@dataclass(frozen=True)
class Cell:
    """One policy with so many workers."""

    policy: str
    workers: int
    trials: int
    said: Simulation

    @property
    def rate(self) -> float:
        """Candidates a second that the controller can serve."""
        return 1e3 * len(self.said.spans) / max(1e-9, self.said.controller_ms)


def seconds(job: Job) -> float:
    """What a candidate takes."""
    return float(SECONDS * np.exp(0.1 * np.random.default_rng([5, job.number]).standard_normal()))


def cell(policy: str, workers: int, waves: int, disk_ms: float, groups: int) -> Cell:
    """Simulate one."""
    problem = toy_problem.problem(groups)
    trials = max(100, (waves if workers <= MANY else waves // 2) * workers)
    trials = min(trials, GP_MOST) if policy == "gp" else trials
    folder = Path(tempfile.mkdtemp(prefix="scaling-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    strategy = open_with("closed", make(policy, problem, 0, num_trials=trials))
    try:
        with Ledger.open(folder / "run", {g.name: g.size for g in problem.space.groups}, {}) as ledger:
            controller = SearchController(ledger, strategy, Halving(trials, ((0, "short"),)), project=problem.repair)
            clock = _Clock(controller, disk_ms / 1e3)
            loss = toy_problem.Loss(problem.space.full)
            said = simulate(controller, loss, [1.0] * workers, seconds, controller_s=None, clock=clock)
    finally:
        shutil.rmtree(folder)
    return Cell(policy, workers, trials, said)


class _Clock:
    """CPU time of this thread, and the disk's time for each tell."""

    def __init__(self, controller: SearchController, disk_s: float) -> None:
        self.disk_s, plain = 0.0, controller.tell

        def tell(*args: Any) -> Any:
            self.disk_s += disk_s
            return plain(*args)

        controller.tell = tell  # type: ignore[method-assign]

    def __call__(self) -> float:
        return time.thread_time() + self.disk_s


def page(cells: Sequence[Cell], chosen: argparse.Namespace) -> str:
    """The page."""
    sizes = sorted({c.workers for c in cells})
    found = {(c.policy, c.workers): c for c in cells}
    lines = [
        "# How many workers a search keeps busy",
        "",
        "Made by `scaling.py`, whose head says how.",
        f"Simulated candidates of {SECONDS:g} s (10 % log-normal), {chosen.groups} groups, {chosen.waves} a worker "
        f"(half of it beyond {MANY}), at least 100 (gp: at most {GP_MOST}); a tell: {chosen.disk_ms:g} ms of disk.",
        f"{platform.machine()} (load {os.getloadavg()[0]:.1f} at the end; the controller's CPU time counts). Python "
        f"{platform.python_version()}, Optuna {version('optuna')}.",
        "",
        "Fraction of the ideal throughput until the last candidate begins, and (whole makespan, tail included), in %.",
        f"Bar: {BAR:.0%} up to 64 workers. Rate: candidates a second that the controller can serve, at the largest "
        "number of workers measured.",
        "",
        f"| policy | {' | '.join(f'{n} workers' for n in sizes)} | ask ms | tell ms | rate | waits |",
        f"|---|{'---:|' * len(sizes)}---:|---:|---:|---:|",
    ]
    for policy in dict.fromkeys(c.policy for c in cells):
        row = []
        for n in sizes:
            c = found.get((policy, n))
            mark = "**" if c and n <= MANY and c.said.steady < BAR else ""
            row.append(f"{mark}{c.said.steady:.1%}{mark} ({c.said.busy():.0%})" if c else "")
        last = [found[policy, n] for n in sizes if (policy, n) in found][-1]
        lines.append(
            f"| {policy} | {' | '.join(row)} | {last.said.ask_ms:.1f} | {last.said.tell_ms:.1f} | "
            f"{last.rate:.0f}/s | {last.said.waits} |"
        )
    need = [f"{n} need {n / SECONDS:.0f}" for n in sizes if n > MANY]
    return "\n".join([*lines, "", f"Bold: below the bar. {BEYOND.format(need=', '.join(need) or 'all of it')}", ""])


def real(data: Path) -> str:
    """Candidates a minute of ResNet-20 on CIFAR-10 with one child process and with two, at one thread each."""
    import protocol

    import autoprune

    rates: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(2 * TURNS):  # in turns: a machine that others use is not always as quick
        workers = 1 + turn % 2
        run = f"scaling-real-{turn}-{os.getpid()}"
        settings: dict[str, Any] = {"finalists": 0, "epochs": 0.0, "trials": 24, "fidelity": "proxy", "abandon": False}
        begin = time.monotonic()
        result = autoprune.search(
            "search_spaces.models:resnet20", protocol.images(data), weights=str(data / protocol.WEIGHTS),
            workers=workers, name=run, **settings,
        )  # fmt: skip
        table = Ledger.read(result.run_dir).entries
        began = sorted(e.started for e in table if e.started)
        span_s = (began[-1] - began[2]).total_seconds()
        rates[workers].append(60 * (len(began) - 3) / span_s)
        print(f"{workers}: {rates[workers][-1]:.1f} candidates a minute; {time.monotonic() - begin:.0f} s in all")
    one, two = (" and ".join(f"{rate:.1f}" for rate in rates[workers]) for workers in rates)
    ratio = statistics.median(b / a for a, b in zip(*rates.values(), strict=True))
    return f"Real, in turns: {one} candidates a minute with one child process, {two} with two: {ratio:.2f} times.\n"


def main() -> None:
    """Simulate, or measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    policies = [name for name in STRATEGIES if name not in CLOSED]
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 8, 64, 512])
    parser.add_argument("--policies", nargs="*", default=policies, choices=policies)
    parser.add_argument("--waves", type=int, default=8, help="candidates per worker")
    parser.add_argument("--groups", type=int, default=30)
    parser.add_argument("--disk-ms", type=float, default=1.0, help="what the disk takes for a tell")
    parser.add_argument("--to", type=Path, default=Path(__file__).with_suffix(".md"), help="where the table goes")
    parser.add_argument("--real", action="store_true", help="2 child processes against 1; appended to the page")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    chosen = parser.parse_args()
    if chosen.real:
        said = real(chosen.data)
        before = chosen.to.read_text().partition("\nReal:")[0].rstrip() if chosen.to.exists() else ""
        write_text(chosen.to, f"{before}\n\n{said}".lstrip())
        return
    cells: list[Cell] = []
    for policy in chosen.policies:
        for workers in chosen.workers:
            if policy == "gp" and workers > GP_MOST:
                continue
            cells.append(cell(policy, workers, chosen.waves, chosen.disk_ms, chosen.groups))
            last = cells[-1]
            print(
                f"{policy} {workers}: steady {last.said.steady:.1%}, whole {last.said.busy():.1%}, ask "
                f"{last.said.ask_ms:.2f} ms, tell {last.said.tell_ms:.2f} ms, waits {last.said.waits}",
                flush=True,
            )
            write_text(chosen.to, page(cells, chosen))


if __name__ == "__main__":
    main()
