"""Every policy judged on the same work: ResNet-20 / CIFAR-10-JPEG, three budgets, 99 evaluations, then one epoch.

    python results/benchmarks/policies.py --data ../shared/data --policies evolution random --budgets 50% --seeds 0 1 2
    python results/benchmarks/policies.py --data ../shared/data --screening        (or --final, or --jobs FILE)
    python results/benchmarks/policies.py --tabulate                               (only what is there)

Seed s draws the search and the fine-tuning: a search of 99 evaluations (93 by proxy and 6 finalists unless the policy
says otherwise), then the one-epoch protocol (protocol.py). A job is one policy, budget and seed. Jobs may be run in any
order, killed, and shared by several processes: each is claimed by a lock that dies with its process. What is finished
is a piece in cache/policies/ and a row in policies.csv, and is not run again (--again does). policies.md and
policies.svg are made from the rows. Peers need the extra `peers`, the plot the extra `bench`.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peers
import record
import report
import torch
from protocol import CACHE, HERE, WEIGHTS, dense_network, images, macs, one_epoch, piece, processor, reconstructed

import autoprune
from autoprune.compute import Compute
from autoprune.config import RunConfig
from autoprune.data import ImageData
from autoprune.errors import RunIsLive
from autoprune.evaluation import measure
from autoprune.ledger import Ledger
from autoprune.recovery import reestimate_evenly
from autoprune.runs.directory import RunDirectory
from autoprune.strategies import STRATEGIES
from autoprune.strategies.closed_form import ClosedForm
from autoprune.tasks import as_task
from search_spaces import Kept, SearchSpace, prune

PIECES = CACHE / "policies"
TABLE = HERE / "policies.csv"
BUDGETS = ("50%", "30%", "15%")
ALLOWED = 99  # evaluations
ONE = {"trials": 1, "finalists": 0}  # a closed form has one answer
VARIANTS: dict[str, dict[str, Any]] = {  # name: settings of autoprune.search
    "random": {"warm_starts": "none"},
    "evolution-bn": {"strategy": "evolution", "fidelity": "proxy"},
    "random-bn": {"strategy": "random", "fidelity": "proxy", "warm_starts": "none"},
    "legr-published": {"strategy": "legr", "criterion": "l2", "warm_starts": "none"},
    "combined-halving": {"strategy": "combined", "trials": 87, "finalists": 4, "rungs": 2},  # as many steps in all
    "cmaes-compensation": {"strategy": "cmaes", "encoding": "compensation"},
    "tpe-compensation": {"strategy": "tpe", "encoding": "compensation"},
}
POLICIES: dict[str, dict[str, Any]] = {  # every strategy with its default settings, and the variants
    **{name: ONE if issubclass(kind, ClosedForm) else {} for name, kind in STRATEGIES.items()},
    **VARIANTS,
}
FINAL = (  # the best five of the screening (sum of both budgets), then those the judgement names
    "annealing",
    "lcp",
    "layer_compensation",
    "evolution-bn",
    "tpe",
    "combined",
    "legr-published",
    "random",
    "amc",
    "reinforce",
)
CONCLUSION = """
Every policy has been screened at 50 % and 15 % with one seed; the final set has three seeds at all budgets, as have
Torch-Pruning and FastNAS with divisor 1 (with divisor 8: one, at 50 %).

- `combined` is above the best peer and above random search by more than the spread between seeds at all three budgets.
  At 50 % the margin over the peer is small (0.15 points): everything between the peers' best and the first in the
  table lies within 0.5 points there, and the closed form `knapsack`, which searches nothing, is as good.
- The learnt rankings are as good as the default: `lcp` (the shift alone) has 84.6 ± 0.3, 79.6 ± 0.2 and 68.7 ± 0.6,
  `layer_compensation` 84.7 ± 0.3, 79.5 ± 0.2 and 67.7 ± 0.4, the default 84.7 ± 0.1, 79.7 ± 0.5 and 68.6 ± 0.9.
- Scored by batch-norm re-estimation alone ("-bn") evolution is among the best at 50 % (84.9 ± 0.3), behind at 30 %
  (79.3 ± 0.4), and at 15 % nearly the worst: 66.6, 61.0, and with the third seed 32.7. Hence the default score.
- `annealing` is as good as the default at 30 % (80.0 ± 0.1) and at 50 % (84.7 ± 0.3), and steadier there than at 15 %;
  `tpe` likewise (84.6 ± 0.0, 79.5 ± 0.4).
- `reinforce` is as good as the default at 50 % (84.9 ± 0.4) and 30 % (79.3 ± 0.5), not at 15 % (66.4 ± 2.3). `amc` has
  84.6 ± 0.2, 79.0 ± 0.2 and 65.3 ± 1.2: level with the peers at 50 % and 30 %, above them at 15 %.
- Methods separate at 15 %. `lcp`, `combined`, `layer_compensation` and `annealing` (67.6 ± 3.3) lead, `tpe` follows
  (67.2 ± 1.1): learnt rankings are steadier than free widths (`annealing`, `gp` 66.9 ± 3.2, `evolution` 64.7 ± 3.2,
  `cmaes` 64.6, `legr` over the default criterion 64.9). All reach the same proxy loss (about 1.3); free widths reach
  it with bottlenecks that the fit bridges and training does not, and the finalists are then all alike.
- `amc`, `amc_guaranteed`, `nsga2`, `legr`, and `cmaes` and `tpe` over compensation deliver at 15 % with seed 0 a
  closed form that they begin with, all the same widths: their finalists find none of their own better. NetAdapt and
  both sensitivity policies (62.7 to 63.7) are level with FastNAS (63.4). Exemplar counts alone have 53.1.
- The published LeGR (l2 norms, no warm start) loses as the budget shrinks: 84.4 ± 0.2, 73.3 ± 5.3, 53.2 ± 5.3. It was
  made for 400 evaluations; of 93 proposals its 64 random rankings leave 29 children.
- Successive halving (`combined-halving`: 87 proxies, 8 finalists of 25 steps, 4 of 100, as many steps in all as the
  default's 6 of 100) does not win: at 15 % seed by seed 2.0 and 0.2 points behind the default, and once the same
  widths (67.9 ± 1.8). It stays an option, `--rungs`.
- Last at 50 % among ours: exemplar counts alone (79.5), `uniform` (82.1), `global_ranking` (82.8); then random search.
- Random's final loss is reached after 10 (50 %) and 5 evaluations (30, 15 %) in the mean of three seeds. Seed by seed
  it is not always a quarter: at 50 % with seed 0 `combined` needs 41, as random has one lucky draw there (0.529 at the
  eighth candidate; its other seeds end at 0.59 and 0.60). Below 50 % it is the last of the closed forms with which
  every search begins that is at random's loss already: the speed there is theirs, not that of what follows.
- As delivered (layers reconstructed on 4,000 images before the epoch) the default gains 4.6 points at 15 %, 0.6 at 30
  % and nothing at 50 %, where its margin over the best peer (0.14) is then no larger than the spread (0.16). Random
  search gains 8.9, 1.0 and nothing; the default stays ahead of it by 2.6, 1.3 and 0.8, more than the spread each time.
- Rows ending in "-bn" score candidates by batch-norm re-estimation, all others after least-squares reconstruction,
  which ranks far better at 15 % (proxies-macs-15.md).
- Torch-Pruning cannot go below 17.7 % with L2: its tracing cannot prune the padded residual streams. ModelOpt FastNAS
  at divisor 8 cannot reach 30 % (its floor is 30.5 %).
- Two machines (told row by row in policies.csv). The same network, seed and steps end elsewhere on the other one: the
  default's at 15 % with seed 0 at 67.7 instead of 67.9, the widths that six policies share at 64.9 instead of 63.9.
  All rows that the bars compare are of the first machine.
- The rows of `gp` are of an earlier implementation (through Optuna), with the same model and other draws. The wall
  time of `tpe` at 15 % contains a pause of 40 minutes in one of its seeds.
"""  # what a fair reader concludes, kept by hand


@dataclass(frozen=True)
class Job:
    """One policy at one budget with one seed."""

    policy: str
    budget: str
    seed: int
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> record.Key:
        """Of its row."""
        return self.policy, self.budget, self.seed

    @classmethod
    def parse(cls, line: str) -> Job:
        """A line of a jobs file: "policy budget seed", then settings as JSON if it has any."""
        policy, budget, seed, *rest = line.split(maxsplit=3)
        return cls(policy, budget, int(seed), json.loads(rest[0]) if rest else {})


def search(job: Job, data: ImageData, weights: Path) -> dict[str, Any]:
    """The piece of one search: its winner, every loss, and where the time went."""
    if job.policy in peers.PEERS:
        return peers.search(job.policy, data, weights, job.budget, job.seed, PIECES)
    if job.policy not in POLICIES:
        raise ValueError(f"unknown policy '{job.policy}'; known: {', '.join((*POLICIES, *peers.PEERS))}")
    how = {
        "strategy": job.policy,
        "trials": 93,
        "finalists": 6,
        "reconstruct": False,
        **POLICIES[job.policy],
        **job.settings,
    }
    if how["trials"] + how["finalists"] > ALLOWED:
        raise ValueError(f"{job}: trials and finalists together may be at most {ALLOWED}")
    run, model = PIECES / f"run-{record.piece_name(job.key)}", dense_network(weights)
    start = time.perf_counter()
    if run.is_dir():
        result = autoprune.resume(run, model=model, data=data)
    else:
        result = autoprune.search(model, data, f"macs<={job.budget}", seed=job.seed, epochs=0, name=str(run), **how)
    wall = time.perf_counter() - start
    entries = sorted(Ledger.read(run).entries, key=lambda e: e.trial.number)
    trials = [e.trial for e in entries if not e.trial.metrics.get("cached")]
    kept = result.space.kept(result.widths, RunDirectory.open(run).scores())
    return {
        "policy": job.policy,
        "budget": job.budget,
        "seed": job.seed,
        "settings": how,
        "widths": list(result.widths),
        "kept": [k.tolist() for k in kept],
        "losses": [t.loss for t in trials],
        "fidelities": [t.fidelity for t in trials],
        "probes": [t.probe for t in trials],
        "evaluations": len(trials),
        "val_loss": result.trial.loss,
        "test_bn": as_cut(data, model, result.space, kept, job.seed),
        "macs": macs(result.model) / macs(model),
        "wall_s": wall,
        "loop_s": (entries[-1].started - entries[0].started).total_seconds() + entries[-1].trial.seconds,
        "compute_s": sum(t.metrics.get("seconds_compute", 0.0) for t in trials),
        "machine": machine(),
    }


def as_cut(data: ImageData, model: torch.nn.Module, space: SearchSpace, kept: Kept, seed: int) -> float:
    """Top-1 on the test images, in percent, of the weights as cut, with batch-norm re-estimated as in a search."""
    net, compute, usual = prune(model, space, kept).eval(), Compute.choose("auto"), RunConfig()
    task = as_task(data).on(compute)
    drawn = task.draw("calibration", usual.bn_images, seed)
    reestimate_evenly(compute.place(net), task, drawn, usual.batch_size, compute)
    return 100 * measure(net, data, "test")["top1"]


def deliver(data: ImageData, weights: Path, kept: Sequence[Sequence[int]], seed: int) -> dict[str, Any]:
    """The same epoch from reconstructed layers: what a user gets from `autoprune.search`."""
    start = reconstructed(data, weights, kept, seed)
    untrained = 100 * measure(start, data, "test")["top1"]
    return {"untrained": untrained, **one_epoch(data, weights, kept, seed, start=start)}


def run_job(
    job: Job, data: Callable[[], ImageData], weights: Path, again: bool = False, delivered: bool = False
) -> record.Row | None:
    """The row of a job, run if it has to be; None if another process is at it."""
    name = record.piece_name(job.key)
    with record.claim(PIECES / f"{name}.lock") as mine:
        if not mine:
            return None
        rows = record.read(TABLE)
        if job.key in rows and not again:
            known = rows[job.key]
            if known.error or not delivered or not math.isnan(known.test_delivered):
                return known
        if again:
            shutil.rmtree(PIECES / f"run-{name}", ignore_errors=True)
            for old in ("", f"-epoch-{job.seed}", f"-delivered-{job.seed}"):
                (PIECES / f"{name}{old}.json").unlink(missing_ok=True)
        try:
            found = piece(f"policies/{name}", lambda: search(job, data(), weights))
        except RunIsLive:
            return None
        epochs: dict[str, dict[str, Any]] = {"epoch": {}, "delivered": {}}
        for kind, train in (("epoch", one_epoch), ("delivered", deliver)):
            if "error" not in found and (kind == "epoch" or delivered):
                how = functools.partial(train, data(), weights, found["kept"], job.seed)
                epochs[kind] = piece(f"policies/{name}-{kind}-{job.seed}", how)
        row = record.from_piece(found, epochs["epoch"], machine(), epochs["delivered"])
        record.add(TABLE, [row], PIECES / "policies.csv.lock")
        return row


def describe(row: record.Row) -> str:
    """One line of the log."""
    return f"top-1 {row.test_bn:.2f}, {row.test_epoch:.2f}, delivered {row.test_fitted:.2f}, {row.test_delivered:.2f}"


def machine() -> str:
    """Where this runs."""
    return f"{processor()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"


def jobs(args: argparse.Namespace) -> list[Job]:
    """What is asked for."""
    asked = []
    if args.jobs:
        lines = (line.strip() for line in args.jobs.read_text().splitlines())
        asked += [Job.parse(line) for line in lines if line and not line.startswith("#")]
    if args.screening:
        asked += [Job(policy, budget, 0) for policy in POLICIES for budget in ("50%", "15%")]
    if args.final:
        asked += [Job(p, b, s) for s in range(3) for p in (*FINAL, *peers.PEERS) for b in BUDGETS]
    asked += [Job(p, b, s) for s in args.seeds for p in args.policies for b in args.budgets]
    return asked


def tabulate() -> None:
    """Write policies.csv, .md and .svg from all that is there."""
    found = record.harvest(PIECES, record.read(TABLE), machine())
    rows = record.add(TABLE, found, PIECES / "policies.csv.lock")
    report.write(HERE / "policies.md", list(rows.values()), CONCLUSION, {**{p: p for p in FINAL}, **peers.TITLES})


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with cifar10_jpeg.tar.xz and the weights")
    parser.add_argument("--policies", nargs="+", default=[], help=f"of {', '.join((*POLICIES, *peers.PEERS))}")
    parser.add_argument("--budgets", nargs="+", default=BUDGETS, help="MACs that may be kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--jobs", type=Path, help='file of lines "policy budget seed {settings as JSON}"')
    parser.add_argument("--screening", action="store_true", help="every policy at 50%% and 15%%, seed 0")
    parser.add_argument("--final", action="store_true", help="the finalists and the peers, all budgets, three seeds")
    parser.add_argument("--delivered", action="store_true", help="a second epoch, from reconstructed layers")
    parser.add_argument("--again", action="store_true", help="run what has been run")
    parser.add_argument("--tabulate", action="store_true", help="run nothing, only write the table and the plot")
    args = parser.parse_args(argv)
    if args.tabulate:
        tabulate()
        return 0
    asked = jobs(args)
    if not asked:
        parser.error("nothing to do: give --policies, --jobs, --screening or --final, or --tabulate")
    if args.data is None or not args.data.is_dir():
        raise SystemExit(f"skipped: no benchmark data in {args.data} (see the data's README)")
    data = functools.cache(lambda: images(args.data))
    failed = []
    for job in asked:
        before = time.perf_counter()
        try:
            row = run_job(job, data, args.data / WEIGHTS, args.again, args.delivered)
        except Exception:  # one policy's fault must not stop the night's grid
            traceback.print_exc()
            failed.append(record.piece_name(job.key))
            continue
        said = "in other hands" if row is None else row.error or describe(row)
        print(f"{time.strftime('%H:%M:%S')} {record.piece_name(job.key)}: {said}", end="", flush=True)
        print(f" ({time.perf_counter() - before:.0f} s)", flush=True)
    tabulate()
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
