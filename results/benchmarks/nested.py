"""Several networks in one against one network for each budget, at equal training images in total.

    python results/benchmarks/nested.py --data DATA [--network resnet20] [--budgets "50%,30%,15%"] [--epochs 10]
        [--seeds 0,1,2] [--minutes 60]
    python results/benchmarks/nested.py --data DATA --tabulate

For each seed: one training of all levels together over `epochs` epochs times the number of levels, and for each budget
one training of that network alone over `epochs` epochs, with the same widths, units, rate and schedule, from the same
dense weights. So all that is trained alone sees as many images as the levels together. Scores are those of the last
step, batch-norm re-estimated, test images looked at once. A piece is claimed by a lock that dies with its process and
is kept in cache/nested/; a training that is killed goes on from its last 100 steps. --tabulate writes nested.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from protocol import CACHE, NETWORKS, claim
from quality import BATCH, BN_SAMPLES, EPOCH, PLAIN, Bench
from torch import nn

from autoprune.compute import Compute
from autoprune.config import RunConfig
from autoprune.evaluation import measure
from autoprune.files import write_text
from autoprune.recovery import reestimate_evenly
from autoprune.runs.levels import levels_of
from autoprune.tasks import as_task
from autoprune.training import Checkpoints, Pruning, TrainingSettings, finetune
from autoprune.training.methods import Nested
from search_spaces import Widths, prune

PIECES = CACHE / "nested"
TABLE = Path(__file__).parent / "nested.md"
CRITERION = "group_fisher"
TOGETHER = "together"


class Pair(Bench):
    """One network, its levels, and both ways to train them."""

    budgets: tuple[str, ...] = ()

    def levels(self) -> dict[str, Widths]:
        """Budget -> widths, as `train --method nested` has them."""
        smaller = ",".join(self.budgets[1:])
        config = RunConfig.make(method="nested", budget=f"macs<={self.budgets[0]}", budget_list=smaller)
        return levels_of(config, self.problem(CRITERION))

    def file(self, name: str, epochs: float, seed: int) -> Path:
        """Of a piece."""
        slug = name.replace("<=", "-").replace("%", "pct")
        return (
            PIECES / self.network / "-".join(b.rstrip("%") for b in self.budgets) / f"{slug}--{epochs:g}--s{seed}.json"
        )

    def make(self, name: str, epochs: float, seed: int) -> dict[str, Any]:  # type: ignore[override]
        """Train one network alone, or all levels together; level -> what was measured."""
        path, levels, problem = self.file(name, epochs, seed), self.levels(), self.problem(CRITERION)
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = Checkpoints(path.with_suffix(".pt"), 100, strict=False)
        how, steps = TrainingSettings(**PLAIN, seed=seed), max(1, round(EPOCH * epochs))
        start = time.process_time()
        data, found = self.data.without_test(), {}
        if name == TOGETHER:
            method = Nested(Pruning(problem.space, problem.scores, levels=levels))
            several = method.network(self.dense)
            finetune(several, data, how, steps=steps * len(levels), method=method, checkpoints=kept)
            for level in several.names:
                found[level] = self.measured(several.alone(level)[0])
        else:
            model = prune(self.dense, problem.space, problem.space.kept(levels[name], problem.scores))
            finetune(model, data, how, steps=steps, checkpoints=kept)
            found[name] = self.measured(model)
        kept.path.unlink(missing_ok=True)
        return {"levels": found, "compute_s": time.process_time() - start, "torch": torch.__version__}

    def measured(self, model: nn.Module) -> dict[str, float]:
        """Scores on the test images, with batch-norm as after any training of ours."""
        compute, task = Compute.choose("auto"), as_task(self.data)
        task = task.on(compute)
        net = compute.place(model).eval()
        reestimate_evenly(net, task, task.draw("calibration", BN_SAMPLES, 0), BATCH, compute)
        return measure(net, self.data, "test")


def work(bench: Pair, epochs: float, seeds: Sequence[int], until: float) -> None:
    """Make what is missing, until the time is up."""
    for seed in seeds:
        for name in (TOGETHER, *reversed(bench.levels())):
            path = bench.file(name, epochs, seed)
            with claim(path.with_suffix(".lock")) as mine:
                if time.monotonic() > until:
                    return
                if mine and not path.is_file():
                    found = bench.make(name, epochs, seed)
                    write_text(path, json.dumps(found))
                    told = (f"{level} {100 * scores['top1']:.2f}" for level, scores in found["levels"].items())
                    print(f"{bench.network} {name} s{seed}: {', '.join(told)}", flush=True)


def table(pieces: Path) -> str:
    """nested.md, from all pieces that are there."""
    lines = ["# Several networks in one, against each alone", "", __doc__.split("\n\n", 2)[2].strip(), ""]
    head = ["network", "epochs of each alone", "level", TOGETHER, "alone", "difference", "seeds"]
    found = {folder: rows(folder) for folder in sorted(pieces.glob("*/*")) if folder.is_dir()}
    for folder, shown in found.items():
        if shown:
            lines += [f"## {folder.parent.name}, levels of {folder.name.replace('-', ', ')} % of the MACs", ""]
            lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *shown, ""]
    return "\n".join(lines if any(found.values()) else [*lines, "Not measured yet.", ""])


def rows(folder: Path) -> list[str]:
    """One for each level and length, of the networks that were trained for the same levels; of seeds that both have."""
    found: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for path in sorted(folder.glob("*.json")):
        name, epochs, seed = path.stem.split("--")
        for level, scores in json.loads(path.read_text())["levels"].items():
            ways = found.setdefault((epochs, level), {TOGETHER: {}, "alone": {}})
            ways[TOGETHER if name == TOGETHER else "alone"][seed] = 100 * scores["top1"]
    lines = []
    for (epochs, level), (both, alone) in ((key, ways.values()) for key, ways in found.items()):
        seeds = both.keys() & alone.keys() or both.keys() | alone.keys()
        values = [[way[seed] for seed in sorted(seeds & way.keys())] for way in (both, alone)]
        gap = f"{statistics.mean(values[0]) - statistics.mean(values[1]):+.2f}" if all(values) else ""
        cells = [folder.parent.name, epochs, level, *map(_shown, values), gap, min(map(len, values))]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def _shown(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}" if values else ""


def main() -> None:
    """Read the command line and work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10_jpeg.tar.xz and the weights")
    parser.add_argument("--network", default="resnet20", choices=list(NETWORKS))
    parser.add_argument("--budgets", default="50%,30%,15%", help="MACs of the levels, from the largest to the smallest")
    parser.add_argument("--epochs", type=float, default=10, help="of each network alone; may be a fraction")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no piece after so long")
    parser.add_argument("--tabulate", action="store_true", help="only write the table of what is there")
    args = parser.parse_args()
    if args.tabulate:
        write_text(TABLE, table(PIECES))
        return
    if not args.data.is_dir():
        raise SystemExit(f"skipped: no benchmark data in {args.data} (see the data's README)")
    torch.set_num_threads(1)
    budgets = tuple(text.strip() for text in args.budgets.split(","))
    if len(budgets) < 2 or not 0 < args.epochs < float("inf"):
        parser.error("--budgets must be two or more, e.g. 50%,15%, and --epochs above 0 (0.01 to try it out)")
    bench = Pair(args.data, args.network, budgets[0])
    bench.budgets = budgets
    work(bench, args.epochs, [int(seed) for seed in args.seeds.split(",")], time.monotonic() + 60 * args.minutes)


if __name__ == "__main__":
    main()
