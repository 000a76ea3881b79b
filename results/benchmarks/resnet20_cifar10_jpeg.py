"""The real run: a trained ResNet-20 at half its MACs, searched, then one epoch of fine-tuning under a fixed protocol.

    python results/benchmarks/resnet20_cifar10_jpeg.py --data ../shared/data [--strategies evolution random knapsack]

The protocol and the peers' figures are those of the data's README: at most 99 evaluations on images held out from the
training set; then, from the pruned weights, SGD with Nesterov momentum .9, weight decay 5e-4, learning rate .02 with
cosine decay per step, batch 128, 351 steps, crop and flip, plain cross-entropy, bf16, channels last, seeds 0 to 2. Test
images are looked at once per finished network. Every piece is kept in results/benchmarks/cache/, so a killed benchmark
goes on. "random" is projected random search without warm starts; "knapsack" is the closed form, one evaluation.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from protocol import CACHE, HERE, images, macs, one_epoch, piece, processor, spread
from safetensors.torch import load_file

import autoprune
from autoprune.config import RunConfig
from autoprune.data import ImageData
from autoprune.ledger import Ledger
from autoprune.runs.directory import RunDirectory
from search_spaces.models import resnet20

BUDGET = "macs<=50%"
PEERS = [  # top-1 on the test images, from the data's README, under exactly this protocol
    ("Torch-Pruning 1.6.1, L2, global", "50.0", 55.0, 84.1),
    ("Torch-Pruning 1.6.1, Taylor, global", "50.0", 47.8, 82.9),
    ("Torch-Pruning 1.6.1, L2, uniform", "46.9", 53.1, 82.6),
    ("Torch-Pruning 1.6.1, random", "50.0", 30.4, 80.1),
    ("Torch-Pruning 1.6.1, BN scale, global", "50.0", 39.2, 79.9),
    ("ModelOpt 0.47 FastNAS, divisor 1", "49.8", 66.4, 84.0),
    ("ModelOpt 0.47 FastNAS, divisor 4", "48.5", 62.5, 83.6),
    ("one-shot ranking, Fisher per MAC (feasibility study)", "48.4", 63.1, 83.9),
]


def search(data: ImageData, weights: Path, strategy: str, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """One search; returns the winner, its top-1 after batch-norm re-estimation alone, and where the time went."""
    run = CACHE / f"run-{strategy}-{seed}"
    start = time.perf_counter()
    model = resnet20()
    model.load_state_dict(load_file(weights))
    if run.is_dir():
        result = autoprune.resume(run, model=model, data=data)
    else:
        closed = strategy in ("uniform", "global_ranking", "knapsack")
        how = {"trials": 1, "finalists": 0} if closed else {**settings, "warm_starts": strategy != "random"}
        result = autoprune.search(model, data, BUDGET, strategy=strategy, seed=seed, epochs=0, name=str(run), **how)
    wall = time.perf_counter() - start
    entries = sorted(Ledger.read(run).entries, key=lambda e: e.trial.number)
    trials = [e.trial for e in entries]
    kept = result.space.kept(result.widths, RunDirectory.open(run).scores())
    return {
        "widths": result.widths,
        "kept": [k.tolist() for k in kept],
        "evaluations": sum(not t.metrics.get("cached") for t in trials),
        "val_loss": result.trial.loss,
        "test_bn": 100 * result.metrics["pruned_test"]["top1"],
        "macs": macs(result.model) / macs(model),
        "wall_s": wall,
        "loop_s": (entries[-1].started - entries[0].started).total_seconds() + trials[-1].seconds,
        "compute_s": sum(t.metrics.get("seconds_compute", 0.0) for t in trials),
        "evaluate_s": sum(t.metrics.get("seconds_total", 0.0) for t in trials),
    }


def table(rows: dict[str, list[dict[str, Any]]], settings: dict[str, Any]) -> str:
    """The record, as Markdown."""
    lines = [
        "# ResNet-20 on CIFAR-10-JPEG at macs<=50%",
        "",
        f"Recorded by `{Path(__file__).name}` on {processor()}, {torch.get_num_threads()} thread(s), "
        f"torch {torch.__version__}, Python {platform.python_version()}. Dense network: 88.16 % on test. "
        f"Settings: {settings}. Peers: figures of the data's README, same protocol, not run again here.",
        "",
        "Top-1 on the 10,000 test images in percent: mean ± standard deviation, over search seeds (batch-norm "
        "only) and over search seeds x fine-tuning seeds (one epoch).",
        "",
        "| | evaluations | MACs kept | batch-norm re-estimated, no training | one epoch | each run |",
        "|---|---|---|---|---|---|",
    ]
    for strategy, found in rows.items():
        epochs = [e["test"] for r in found for e in r["epochs"]]
        kept = ", ".join(f"{100 * r['macs']:.1f} %" for r in found)
        each = ", ".join(f"{e:.2f}" for e in epochs)
        count = max(r["evaluations"] for r in found)
        before = spread([r["test_bn"] for r in found])
        lines.append(f"| **autoprune, {strategy}** | {count} | {kept} | {before} | {spread(epochs)} | {each} |")
    lines += [f"| {name} | | {kept} % | {bn} | {epoch} | |" for name, kept, bn, epoch in PEERS]
    lines += [
        "",
        "Where the time went, in seconds. The search: from the first candidate asked to the last one told. The whole "
        "call adds tracing, the zero-mask check, the scores (2,048 images forwards and backwards) and measuring both "
        "networks in the end.",
        "",
        "| | the search | forward and backward passes | everything else | one evaluation | whole call | one epoch |",
        "|" + "---|" * 7,
    ]
    flat = [(f"{strategy}, seed {r['seed']}", r) for strategy, found in rows.items() for r in found]
    for name, r in flat:
        rest, epoch = r["loop_s"] - r["compute_s"], statistics.mean(e["seconds"] for e in r["epochs"])
        lines.append(
            f"| {name} | {r['loop_s']:.1f} | {r['compute_s']:.1f} | {rest:.1f} = {100 * rest / r['loop_s']:.1f} % | "
            f"{r['evaluate_s'] / r['evaluations']:.2f} | {r['wall_s']:.1f} | {epoch:.0f} |"
        )
    lines += ["", "Widths found:", "", *(f"- {name}: {tuple(r['widths'])}" for name, r in flat)]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10_jpeg.tar.xz and the weights")
    parser.add_argument("--strategies", nargs="+", default=[RunConfig().strategy, "random"])
    parser.add_argument("--search-seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the fine-tuning")
    parser.add_argument("--trials", type=int, default=RunConfig().trials)
    parser.add_argument("--finalists", type=int, default=RunConfig().finalists)
    parser.add_argument("--tabulate", action="store_true", help="only what the cache holds")
    args = parser.parse_args()
    if not args.data.is_dir():
        raise SystemExit(f"skipped: no benchmark data in {args.data} (see the data's README)")
    if args.trials + args.finalists > 99:
        raise SystemExit("the comparison allows 99 evaluations: --trials and --finalists together")
    data, weights = images(args.data), args.data / "resnet20_cifar10_jpeg.safetensors"
    settings = {"trials": args.trials, "finalists": args.finalists}
    rows: dict[str, list[dict[str, Any]]] = {}
    for strategy in args.strategies:
        for seed in args.search_seeds:
            if args.tabulate and not all((CACHE / f"{strategy}-{seed}-epoch-{n}.json").is_file() for n in args.seeds):
                continue
            found = piece(f"{strategy}-{seed}", lambda s=strategy, n=seed: search(data, weights, s, n, settings))
            epochs = [
                piece(f"{strategy}-{seed}-epoch-{n}", lambda k=found["kept"], n=n: one_epoch(data, weights, k, n))
                for n in args.seeds
            ]
            rows.setdefault(strategy, []).append({**found, "seed": seed, "epochs": epochs})
            (HERE / "resnet20_cifar10_jpeg.md").write_text(table(rows, settings))
            print((HERE / "resnet20_cifar10_jpeg.md").read_text(), flush=True)


if __name__ == "__main__":
    main()
