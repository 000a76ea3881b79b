"""Depth together with widths: what blocks that may go buy.

    python results/benchmarks/depth.py pays --data ../shared/data [--network resnet20]
        [--where onnxruntime torch macs] [--limits 50% 30%] [--seeds 0 1 2]
    python results/benchmarks/depth.py held [--where onnxruntime] [--limits 30%]
    python results/benchmarks/depth.py least --data ../shared/data
    python results/benchmarks/depth.py branches --data ../shared/data
    python results/benchmarks/depth.py --tabulate

*pays*: for each budget and seed a search with depth and one without, on ResNet-20 or the small transformer of vit.py
(trained first, if need be); then the delivered network is measured beside the dense one (the ONNX file in ONNX Runtime,
the loaded safetensors in torch, batch 1, one thread) and trained for an epoch: ResNet-20 by the protocol, the
transformer by AdamW at 5e-4. A budget that is out of reach is recorded as what the refusal says. *held*: whether what
is delivered keeps the budget, by the transformer with random weights, on which no latency depends, by short searches.
*least*: what the smallest networks take beside the dense one, without depth and with it.
*branches*: how well the loss without a block ("replaced by its constant") and the sum of its units' scores rank the
blocks by the loss after both the block's removal and least-squares reconstruction. Pieces are cached, so a killed run
goes on. Measure on a core that nobody else uses.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import vit
from latency_budget import dense_file, in_turns, machine, measured
from protocol import CACHE, EPOCH, HERE, WEIGHTS, dense_network, images, one_epoch, piece, spread
from torch import nn
from torchvision.datasets import FakeData
from torchvision.transforms.v2 import PILToTensor

import autoprune
from autoprune import criteria
from autoprune.compute import Compute
from autoprune.data import ImageData, load
from autoprune.evaluation import measure
from autoprune.files import write_text
from autoprune.recovery.reconstruction import Reconstruction
from autoprune.runs.directory import RunDirectory
from autoprune.tasks import as_task
from autoprune.training import TrainingSettings, finetune
from objectives import InfeasibleBudget
from objectives.latency import Setting
from objectives.latency.comparing import compare
from objectives.latency.registry import BACKENDS
from search_spaces import Dresser, trace

BUDGETS = {
    "onnxruntime": "latency<={}@onnxruntime,batch=1,threads=1",
    "torch": "latency<={}@torch,batch=1,threads=1",
    "macs": "macs<={}",
}
HOW: dict[str, dict[str, Any]] = {
    "resnet20": {"trials": 40, "finalists": 4, "short_steps": 50},
    "vit": {"trials": 24, "finalists": 3, "short_steps": 50, "val_samples": 1000, "lr": vit.PRUNED_LEARNING_RATE}
    | {"optimizer": "adamw", "weight_decay": 0.05},
}
IMAGES = 512  # that score branches


def network(name: str, data: ImageData, folder: Path) -> nn.Module:
    """The trained one."""
    if name == "resnet20":
        return dense_network(folder / WEIGHTS)
    return vit.Study(data, "vit", {}, vit.EPOCHS, EPOCH).dense()


def search(name: str, where: str, limit: str, depth: str, seed: int, folder: Path) -> dict[str, Any]:
    """One search, what was measured of the network that it delivers, and its accuracy after an epoch."""
    run = CACHE / f"depth/pays-{name}-{where}-{limit}-{depth}-s{seed}-run"
    data = images(folder)
    model = network(name, data, folder)
    try:
        if (run / "config.toml").is_file():
            result = autoprune.resume(run, model=model, data=data)
        else:
            told = {"epochs": 0, "onnx": True, "name": str(run), "seed": seed, "depth": depth, **HOW[name]}
            result = autoprune.search(model, data, BUDGETS[where].format(limit), **told)
    except InfeasibleBudget as error:
        return {"unreachable": str(error), "machine": machine()}
    kept = [k.tolist() for k in result.space.kept(result.widths, RunDirectory.open(run).scores())]
    macs = result.costs["macs"]
    return {
        "share": macs["pruned"] / macs["dense"],
        "macs": macs["pruned"] / macs["dense"],
        **on_device(name, where, model, data, run / "best"),
        "loss": result.trial.loss,
        "removed": [b.name for b in result.space.removed(result.widths)],
        "kept": kept,
        "machine": machine(),
        **trained(name, result.model, data, folder, kept, seed),
    }


def held(where: str, limit: str, seed: int) -> dict[str, float]:
    """What a short search delivers of the transformer with random weights, on noise, measured."""
    noise = partial(FakeData, image_size=(3, 32, 32), num_classes=10, transform=PILToTensor())
    data = load({"train": noise(600), "val": noise(200, random_offset=600), "mean": 0.5, "std": 0.25})
    torch.manual_seed(seed)
    model, run = vit.SmallViT().eval(), CACHE / f"depth/held-{where}-{limit}-s{seed}-run"
    shutil.rmtree(run, ignore_errors=True)
    told = {"trials": 8, "finalists": 0, "epochs": 0, "score_samples": 256, "score_rounds": 1}
    autoprune.search(model, data, BUDGETS[where].format(limit), onnx=True, name=str(run), seed=seed, depth="on", **told)
    return on_device("vit", where, model, data, run / "best")


def least(name: str, where: str, folder: Path) -> dict[str, Any]:
    """What the smallest networks take of the dense one's milliseconds; the transformer has random weights."""
    model = dense_network(folder / WEIGHTS) if name == "resnet20" else vit.SmallViT().eval()
    image = torch.zeros(1, 3, 32, 32)
    space, found = trace(model, image), dict[str, Any]()
    backend = BACKENDS[where](Setting(batch=1, threads=1))
    for depth in (False, True):
        allowed = space.with_limits(depth=depth)
        with backend.ready():
            build = backend.candidates(model, allowed, image, delivered=True)
            took = compare(backend, build, allowed.full, allowed.floor)
        found["with" if depth else "without"] = {"share": took.share, "error": took.share_error, "ms": took.pruned_ms}
    return {**found, "dense_ms": took.dense_ms, "machine": machine()}


def on_device(name: str, where: str, dense: nn.Module, data: ImageData, best: Path) -> dict[str, float]:
    """Milliseconds and share of what was delivered."""
    if where == "onnxruntime":
        return measured(dense_file(name, dense, data.shape[-1]), best / "model.onnx")
    if where == "macs":
        return {}
    images, pruned = torch.zeros(1, *data.shape), autoprune.load(best, model=dense).eval()
    with torch.no_grad():  # copies: where weights lie is luck
        return in_turns(lambda: [partial(copy.deepcopy(net).eval(), images) for net in (dense, pruned)])


def trained(name: str, model: nn.Module, data: ImageData, folder: Path, kept: Any, seed: int) -> dict[str, Any]:
    """Top-1 after an epoch from the delivered weights."""
    if name == "resnet20":
        return one_epoch(data, folder / WEIGHTS, kept, seed, start=model)
    how = TrainingSettings(lr=vit.PRUNED_LEARNING_RATE, seed=seed, **vit.ADAMW)
    finetune(model, data.without_test(), how, steps=EPOCH)
    return {split: 100 * measure(model, data, split)["top1"] for split in ("val", "test")}


def branches(folder: Path) -> dict[str, Any]:
    """What the blocks of ResNet-20 are worth by each way of scoring them, and after reconstruction."""
    from scipy.stats import spearmanr

    model, data = dense_network(folder / WEIGHTS).eval(), images(folder)
    task = as_task(data)
    space = trace(model, torch.zeros(1, *data.shape)).with_limits(depth=True)
    batches = list(task.draw("calibration", IMAGES, 0).batches(128))
    rises = criteria.branch_losses(model, space, batches, task)
    scores = criteria.score_all("group_fisher", model, space, batches, 0, task)
    sums = [float(sum(scores[g].sum() for g in b.groups)) for b in space.branches]
    compute = Compute(torch.device("cpu"), amp=False, channels_last=False)
    bridge = Reconstruction.on(model, space, task, IMAGES, compute)
    dresser, after = Dresser(model, space), []
    for branch in space.branches:
        kept = [np.arange(w) for w in space.without(space.full, branch)]
        net = dresser.dress(kept).eval()
        bridge(net, kept)
        with torch.no_grad():
            losses = [float(task.evaluate(net, b)[1].sum()) for b in batches]
        after.append(sum(losses) / IMAGES)
    ranks = {n: float(spearmanr(v, after)[0]) for n, v in (("loss without it", rises), ("sum of scores", sums))}
    return {"names": [b.name for b in space.branches], "rises": list(rises), "sums": sums, "after": after, **ranks}


def tabulate() -> None:
    """Write depth.md from the pieces that are there."""
    pieces = {p.stem: json.loads(p.read_text()) for p in sorted((CACHE / "depth").glob("*.json"))}
    file = HERE / "depth.md"
    head = file.read_text().partition("## Means")[0] if file.is_file() else "# Depth together with widths\n\n"
    arms: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    lines = ["| network | budget on | at most | depth | seed | measured | loss | test top-1 | blocks removed |"]
    lines += ["|---|---|---|---|---:|---:|---:|---:|---|"]
    for name, found in pieces.items():
        if not name.startswith("pays-"):
            continue
        _, network, where, limit, depth, seed = name.split("-")
        arms[network, where, limit, depth].append(found)
        row = [network, where, limit, depth, seed[1:]]
        if "unreachable" in found:
            row += ["unreachable", "", "", found["unreachable"].partition("this space ")[2].partition(" (")[0]]
        else:
            gone = ", ".join(found["removed"]) or "none"
            row += [f"{100 * found['share']:.1f} %", f"{found['loss']:.4f}", f"{found['test']:.2f}", gone]
        lines.append(f"| {' | '.join(row)} |")
    short = ["| budget on | at most | seed | measured, half of the quartiles' gap |", "|---|---|---:|---:|"]
    means = ["| network | budget on | at most | depth | seeds | within the budget | loss | test top-1 |"]
    means += ["|---|---|---|---|---:|---:|---:|---:|"]
    for arm, found in arms.items():
        reached = [f for f in found if "unreachable" not in f]
        within = sum(f["share"] <= float(arm[2].rstrip("%")) / 100 + 1e-9 for f in reached)
        row = [*arm, str(len(found)), f"{within} of {len(found)}"]
        row += [spread([f[key] for f in reached]) if reached else "unreachable" for key in ("loss", "test")]
        means.append(f"| {' | '.join(row)} |")
    for name, found in pieces.items():
        if name.startswith("held-"):
            _, where, limit, seed = name.split("-")
            row = [where, limit, seed[1:], f"{100 * found['share']:.2f} ± {100 * found['spread']:.2f} %"]
            short.append(f"| {' | '.join(row)} |")
    if found := pieces.get("branches"):
        ranks = f"the loss without the block {found['loss without it']:.2f}, the sum of {found['sum of scores']:.2f}"
        lines += ["", f"Rank correlation with the loss after reconstruction, over the blocks of ResNet-20: {ranks}."]
    reach = ["| network | in | without depth | with depth |", "|---|---|---:|---:|"]
    for name, found in pieces.items():
        if name.startswith("least-"):
            shares = [found[key] for key in ("without", "with")]
            row = [*name.split("-")[1:], *(f"{100 * x['share']:.1f} ± {100 * x['error']:.1f} %" for x in shares)]
            reach.append(f"| {' | '.join(row)} |")
    smallest = ["## The least latency", "", *reach, ""] if len(reach) > 2 else []
    transformers = ["## Delivered transformers", "", *short, ""] if len(short) > 2 else []
    parts = ["## Means", "", *means, "", *smallest, *transformers, "## Every search", "", *lines]
    write_text(file, head + "\n".join(parts) + "\n")


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=["pays", "held", "least", "branches"])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with data and weights")
    parser.add_argument("--network", default="resnet20", choices=list(HOW))
    parser.add_argument("--where", nargs="+", default=list(BUDGETS), choices=list(BUDGETS))
    parser.add_argument("--limits", nargs="+", default=["50%", "30%"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--depths", nargs="+", default=["on", "off"])
    parser.add_argument("--tabulate", action="store_true")
    args = parser.parse_args()
    (CACHE / "depth").mkdir(parents=True, exist_ok=True)
    if args.part == "branches":
        print(piece("depth/branches", lambda: branches(args.data)))
    elif args.part == "least":
        for name, where in ((n, w) for n in HOW for w in BUDGETS if w != "macs"):
            label = f"depth/least-{name}-{where}"
            print(label, piece(label, partial(least, name, where, args.data)), flush=True)
    elif args.part == "held":
        for where, limit, seed in (
            (w, x, s) for w in args.where if w != "macs" for x in args.limits for s in args.seeds
        ):
            label = f"depth/held-{where}-{limit}-s{seed}"
            print(label, piece(label, partial(held, where, limit, seed)), flush=True)
    elif args.part == "pays":
        todo = [(w, x, d, s) for s in args.seeds for w in args.where for x in args.limits for d in args.depths]
        for where, limit, depth, seed in todo:
            label = f"depth/pays-{args.network}-{where}-{limit}-{depth}-s{seed}"
            found = piece(label, partial(search, args.network, where, limit, depth, seed, args.data))
            print(label, found.get("unreachable") or f"{100 * found['share']:.1f} %, {found['test']:.2f}", flush=True)
    tabulate()


if __name__ == "__main__":
    main()
