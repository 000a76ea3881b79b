"""What a candidate that costs nothing costs on a Ray cluster, and writes ray_overhead.md beside this file.

    python results/benchmarks/ray_overhead.py [--history 1000] [--window 200] [--tune 60]

Evolution over 30 groups, budget macs<=50%, one worker. The gap between the starts of two evaluations is all that stands
between candidates: the result to the coordinator, two writes to the ledger (one to the disk for good), the strategy,
the projection on the budget, and the job back. Beside it, in the same Ray session: Tune with one trial per candidate.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import ray
import torch
from ray import tune

from autoprune.controller import Job, SearchController
from autoprune.ledger import Ledger
from autoprune.problem import Problem
from autoprune.schedule import Halving
from autoprune.strategies import make
from autoprune.workers import run_here
from autoprune.workers.cluster import Search, connect, run_cluster
from objectives import parse
from search_spaces import SearchSpace
from search_spaces.groups import ChannelGroup
from search_spaces.space import Axis, Layer

GROUPS = 30
BAR_MS = 10


def problem() -> Problem:
    """Thirty convolutions in a row, of 64 channels."""
    groups = tuple(ChannelGroup(f"conv{i}", 64, ()) for i in range(GROUPS))
    axes = [Axis(3, 3), *(Axis(g.size, 0, ((i, 1),)) for i, g in enumerate(groups)), Axis(10, 10)]
    layers = tuple(Layer(f"layer{i}", "conv", 9, 64, a, b) for i, (a, b) in enumerate(pairwise(axes)))
    scores = tuple(np.random.default_rng(i).random(g.size) for i, g in enumerate(groups))
    return Problem(SearchSpace(groups, (), layers, ()), (parse("macs<=50%"),), scores)


@dataclass(frozen=True)
class OpenSearch:
    """The search, here or at the coordinator."""

    run: str
    trials: int

    def __call__(self) -> Search:
        """Open it."""
        what = problem()
        ledger = Ledger.open(self.run, {g.name: g.size for g in what.space.groups}, {})
        strategy = make("evolution", what, 0, num_trials=self.trials)
        controller = SearchController(ledger, strategy, Halving(self.trials, ()), project=what.repair)
        return Search(ledger, controller, lambda job: 600.0)


@dataclass(frozen=True)
class Clocked:
    """An evaluator that costs nothing and notes when it was called."""

    file: str

    def __call__(self, device: str) -> Any:
        """What a worker calls."""
        out = open(self.file, "a", buffering=1)

        def evaluate(job: Job) -> Mapping[str, Any]:
            out.write(f"{time.monotonic()}\n")
            rng = np.random.default_rng(job.widths)
            return {"loss": float(rng.random()), "batch_losses": rng.random(63).tolist(), "top1": 0.5}

        return evaluate


def gaps_ms(file: Path) -> list[float]:
    """Between the starts of two evaluations."""
    return [1e3 * (b - a) for a, b in pairwise(map(float, file.read_text().splitlines()))]


def row(name: str, gaps: list[float]) -> str:
    """Mean, median and 95th percentile."""
    return f"| {name} | {statistics.mean(gaps):.1f} | {statistics.median(gaps):.1f} | {np.percentile(gaps, 95):.1f} |"


def tune_alone(count: int, reuse: bool, folder: Path) -> list[float]:
    """Tune with one trial per candidate."""
    starts = folder / f"tune-{reuse}.txt"

    def free(config: dict[str, Any]) -> dict[str, float]:
        with open(starts, "a") as file:
            file.write(f"{time.monotonic()}\n")
        return {"loss": config["x"]}

    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    tune.Tuner(
        tune.with_resources(free, {"cpu": 1}),
        param_space={"x": tune.uniform(0, 1)},
        tune_config=tune.TuneConfig(num_samples=count, reuse_actors=reuse, max_concurrent_trials=1),
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0),
    ).fit()
    return gaps_ms(starts)


def report(history: int, window: int, count: int) -> str:
    """The table, in Markdown."""
    rows, total = [], history + window
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        here, far = folder / "here.txt", folder / "far.txt"
        search = OpenSearch(str(folder / "here"), total)()
        run_here(search.controller, Clocked(str(here))("cpu"))
        search.ledger.close()
        rows.append(row(f"in this process, trials {history} to {total}", gaps_ms(here)[history:]))
        with connect("local", num_cpus=1, object_store_memory=200 * 2**20) as cluster:
            (folder / "far").mkdir()
            run_cluster(OpenSearch(str(folder / "far"), total), Clocked(str(far)), cluster.share(1), folder / "ray")
            gaps = gaps_ms(far)
            rows.append(row(f"**coordinator on Ray, trials {history} to {total}**", gaps[history:]))
            rows.append(row(f"coordinator on Ray, trials 0 to {window}", gaps[:window]))
            rows.append(
                row(f"Tune, a trial per candidate, {count} of them, reuse_actors", tune_alone(count, True, folder))
            )
            rows.append(row(f"Tune, a trial per candidate, {count} of them", tune_alone(count, False, folder)))
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, pinned to one"
    versions = f"Python {platform.python_version()}, Ray {ray.__version__}, torch {torch.__version__}"
    return "\n".join(
        [
            "# What a candidate that costs nothing costs on Ray\n",
            f"Evolution, {GROUPS} groups, one worker; {machine} (load {os.getloadavg()[0]:.1f} at the end).",
            f"{versions}.",
            f"Bar: {BAR_MS} ms per candidate at {history} trials of history.\n",
            "| what | mean, ms | median, ms | 95 %, ms |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--history", type=int, default=1000)
    parser.add_argument("--window", type=int, default=200)
    parser.add_argument("--tune", type=int, default=60)
    given = parser.parse_args()
    table = report(given.history, given.window, given.tune)
    Path(__file__).with_suffix(".md").write_text(table)
    print(table)
