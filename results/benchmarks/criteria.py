"""Every criterion on the same work: ResNet-20 / CIFAR-10-JPEG, which channels to keep, and how many of each group.

    python results/benchmarks/criteria.py --data ../shared/data [--only group_fisher l2] [--budgets 15% 50%]
        [--seeds 0 1 2] [--questions which "how many"] [--stages fitted epoch] [--tabulate]

Each criterion answers two questions at each budget. *Which*: the widths are given (those that the default search found
with that seed, policies.csv), the criterion picks the channels. *How many*: the widths are those of the knapsack over
its own scores, which takes the scores of all groups to be of one scale. No search in either. Then the layers are
reconstructed, or the pruned weights trained for one epoch (protocol.py). Seed s draws the 2,048 training images that
criteria look at, and the epoch. A score and a top-1 are one piece each in cache/criteria/: a killed benchmark goes on.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import record
import torch
from policies import TABLE, machine
from protocol import CACHE, HERE, WEIGHTS, dense_network, images, one_epoch, piece, reconstructed, spread

from autoprune import criteria
from autoprune.allocation import knapsack
from autoprune.config import RunConfig
from autoprune.data import ImageData
from autoprune.evaluation import measure
from autoprune.files import write_text
from autoprune.problem import Problem
from objectives import parse
from search_spaces import Widths, trace

QUESTIONS = ("which", "how many")
STAGES = ("fitted", "epoch")
SCORE_IMAGES = 2048
CONCLUSION = """
**The default, `group_fisher`, is ahead.** Of the channels to keep at 15 % it makes 68.7 ± 1.0 after the epoch; the
next are `thinet` (66.3 ± 2.0), `nisp` (64.6 ± 2.0) and `taylor` (64.4 ± 1.2), three seeds each, and `mean_activation`
(64.8, one). Before training it is first at both budgets. The widths were found by searches with `group_fisher`, which
is an advantage for it: another criterion might find other widths for its own channels. That was not searched.

- How many is the harder question. Only criteria whose scores are changes of the loss compare across groups:
  `group_fisher` (82.4 held out at 50 %, layers fitted) and `taylor` (78.6), then `obd` and `orthoreg`; at 15 %
  `taylor` is ahead of `group_fisher` there (51.0, 48.4; one seed, level on test). Norms, ranks and activations empty
  whole layers: they want `uniform` widths, or a search that learns a correction for each group.
- `exemplar` (45.3) and `orthoreg` (48.5) pick worse than at random (57.1) at 15 % after the epoch; `l1` and `obd`
  hardly better. A criterion is not better than none because it was published.
- `lamp` orders the filters of a group as `l2` does: the same numbers.
- Fitted top-1 orders criteria roughly as the epoch does, not within a few points.

Not run: epochs at 50 %, epochs of the networks of "how many", more than one seed where none is given.
"""  # what a fair reader concludes, kept by hand


class Row(NamedTuple):
    """One pruned network."""

    budget: str
    question: str
    criterion: str
    seed: int


def scores(criterion: str, seed: int, data: ImageData, weights: Path) -> criteria.scoring.Scores:
    """Per group [C], higher = keep."""

    def compute() -> dict[str, Any]:
        model = dense_network(weights)
        batches = data.train.sample(SCORE_IMAGES, seed).batches(128)
        normal = ((data.normalise(b.images), b.labels) for b in batches)
        found = criteria.score_all(criterion, model, trace(model, torch.zeros(1, 3, 32, 32)), normal, seed)
        return {"scores": [s.tolist() for s in found]}

    return tuple(np.array(s) for s in piece(f"criteria/scores-{criterion}-s{seed}", compute)["scores"])


def cut(row: Row, data: ImageData, weights: Path) -> tuple[Widths, list[list[int]]]:
    """The widths, and per group the units that stay."""
    space = trace(dense_network(weights), torch.zeros(1, 3, 32, 32)).with_limits(min_keep=RunConfig().min_keep)
    found = scores(row.criterion, row.seed, data, weights)
    if row.question == "which":
        widths = tuple(map(int, record.read(TABLE)[RunConfig().strategy, row.budget, row.seed].widths.split()))
    else:
        widths = knapsack(Problem(space, (parse(f"macs<={row.budget}"),), found))
    return widths, [k.tolist() for k in space.kept(widths, found)]


def top1(row: Row, stage: str, data: ImageData, weights: Path) -> dict[str, Any]:
    """In percent, on the held out images and on test, after the layers are fitted or after the epoch."""
    widths, kept = cut(row, data, weights)
    if stage == "epoch":
        found = one_epoch(data, weights, kept, row.seed)
    else:
        model = reconstructed(data, weights, kept, row.seed)
        found = {split: 100 * measure(model, data, split)["top1"] for split in ("val", "test")}
    return {**found, "widths": list(widths), "machine": machine()}


def table(found: dict[tuple[Row, str], dict[str, Any]], budget: str, question: str) -> list[str]:
    """Of one budget and question, the best on the held out images first."""
    of = {(r.criterion, r.seed, stage): f for (r, stage), f in found.items() if r[:2] == (budget, question)}
    lines = [
        "| criterion | fitted: held out | test | one epoch: held out | test | n | each run, test | widths, seed 0 |",
        "|" + "---|" * 8,
    ]
    lists = {
        name: {stage: [of[key] for key in sorted(of) if key[::2] == (name, stage)] for stage in STAGES}
        for name in sorted({c for c, _, _ in of})
    }

    def rank(name: str) -> tuple[float, ...]:
        return tuple(-statistics.mean([f["val"] for f in lists[name][s]] or [0.0]) for s in reversed(STAGES))

    for name in sorted(lists, key=rank):
        fitted, epoch = (lists[name][stage] for stage in STAGES)
        tops = [[f[split] for f in runs] for runs in (fitted, epoch) for split in ("val", "test")]
        cells = [spread(top) if top else "" for top in tops]
        each = ", ".join(f"{f['test']:.2f}" for f in epoch)
        widths = " ".join(map(str, (fitted or epoch)[0]["widths"]))
        lines.append(f"| `{name}` | {' | '.join(cells)} | {len(epoch)} | {each} | {widths} |")
    return lines


def write(found: dict[tuple[Row, str], dict[str, Any]]) -> None:
    """criteria.md."""
    machines = "; ".join(dict.fromkeys(f["machine"] for f in found.values())) or "none yet"
    lines = [
        "# Every criterion on the same work: ResNet-20 / CIFAR-10-JPEG",
        "",
        f"Made by `criteria.py`. Machines: {machines}. Dense network: 88.16 % on test.",
        "",
        "*Which*: the criterion picks the channels, the widths are given: those that the default search (with",
        f"`{RunConfig().criterion}`) found with that seed. *How many*: the widths, too, are its own: the knapsack",
        "over its scores. No search in either. *Fitted*: layers reconstructed by least squares on 4,000 images, not",
        "trained. *One epoch*: the one-epoch protocol from the weights as cut. Top-1 in percent, mean ± standard",
        "deviation over seeds; in the order of the held out images.",
        "",
        "## What a fair reader concludes",
        "",
        CONCLUSION.strip(),
    ]
    for question, budget in dict.fromkeys((r.question, r.budget) for r, _ in found):
        lines += ["", f"## {question.capitalize()}, macs<={budget}", "", *table(found, budget, question)]
    write_text(HERE / "criteria.md", "\n".join([*lines, ""]))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10_jpeg.tar.xz and the weights")
    parser.add_argument("--only", nargs="+", default=list(criteria.CRITERIA), help="criteria")
    parser.add_argument("--budgets", nargs="+", default=["15%", "50%"], help="MACs that may be kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--questions", nargs="+", default=QUESTIONS, choices=QUESTIONS)
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES)
    parser.add_argument("--tabulate", action="store_true", help="run nothing, only write the table of what is there")
    args = parser.parse_args(argv)
    if not args.data.is_dir():
        raise SystemExit(f"skipped: no benchmark data in {args.data} (see the data's README)")
    torch.set_num_threads(1)
    data, weights, found = images(args.data), args.data / WEIGHTS, {}
    if args.tabulate:
        args.only, args.budgets, args.seeds = list(criteria.CRITERIA), ["50%", "30%", "15%"], [0, 1, 2]
    rows = [Row(b, q, c, s) for s in args.seeds for q in args.questions for b in args.budgets for c in args.only]
    for stage in args.stages:
        for row in rows:
            name = "-".join(map(str, row)).replace(" ", "-")
            path = f"criteria/{name}-{stage}"
            with record.claim(CACHE / f"{path}.lock") as mine:
                if mine and ((CACHE / f"{path}.json").is_file() or not args.tabulate):
                    found[row, stage] = piece(path, functools.partial(top1, row, stage, data, weights))
                    print(*row, stage, f"{found[row, stage]['test']:.2f}", flush=True)
    if args.tabulate:
        write(found)


if __name__ == "__main__":
    main()
