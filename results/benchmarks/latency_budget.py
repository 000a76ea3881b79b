"""Latency budgets: do they hold on the exported file, and do they pay against a MACs budget of the same latency?

    python results/benchmarks/latency_budget.py holds --data ../shared/data [--models resnet20 mobilenet_v2]
    python results/benchmarks/latency_budget.py pays --data ../shared/data [--limits 60% 40%]
    python results/benchmarks/latency_budget.py --tabulate

*holds*: five seeded searches per network; the ONNX file each of them writes is measured here, beside the dense
network's, by code of this file and not of the package. *pays*: for each seed one search under the latency budget and
searches of the same length under MACs budgets, moved until the measured latency is that of the first (a secant on the
share, at most `TRIES`); then the one-epoch protocol for both. Pieces are cached, so a killed run goes on. Measure on a
core that nobody else uses.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
import torchvision
from protocol import CACHE, HERE, MEAN, STD, WEIGHTS, dense_network, images, one_epoch, piece, processor, spread

import autoprune
from autoprune.data import ImageData, load
from autoprune.files import write_text
from autoprune.formats import to_onnx
from autoprune.runs.directory import RunDirectory

METRIC = "latency@onnxruntime,batch=1,threads=1"
SEEDS = {"holds": range(5), "pays": range(3)}
TRIES, NEAR = 3, 0.012  # searches under MACs budgets; how much lower than the other's the share may be
PASSES, ROUNDS, RUNS = 5, 12, 12
PROVIDERS = ["CPUExecutionProvider"]
HOW: dict[str, dict[str, Any]] = {
    "resnet20": {"trials": 40, "finalists": 4, "short_steps": 50},
    # random weights: nothing to learn from, so everything that costs time is small
    "mobilenet_v2": {"trials": 12, "finalists": 2, "short_steps": 1, "criterion": "l2", "fidelity": "proxy"}
    | {"bn_samples": 64, "val_samples": 64, "batch_size": 32, "score_samples": 64, "reconstruct": False},
}
PAYS = {"trials": 40, "finalists": 4, "short_steps": 50}
CONCLUSION = """
- The budget holds in 5 of 5 runs of both networks, searched (at `--divisor auto`, the default) and measured while
  nobody else used the machine's other core; the host was not quiet all the same (see the spreads, and 0.78 to 0.98 ms
  for one dense network). An earlier version held it in 5 of 5 at divisor 1, likewise on a quiet machine.
- On a machine that is loaded all the time it does not always: ten searches beside a benchmark on the other core ended
  within the budget eight times; the other two files measured 60.4 ± 2.0 % (ResNet-20) and 60.04 ± 1.7 % (MobileNetV2).
- What is left unused is the price of noise: a finalist counts as over the budget if its measurement, two standard
  errors added, is; then the predictor is corrected, by one factor. ResNet-20 ended at 54 to 60 %, MobileNetV2 at 53 to
  58 %.
- MobileNetV2 has random weights: its runs show that the tools keep the budget, and nothing about accuracy.
- A MACs budget does not buy milliseconds here: at 60 % of the MACs ResNet-20 took as long as the dense network, because
  widths that are no multiple of the device's blocks cost as much as the next block or more. At about the same measured
  latency the search under the latency budget keeps half as many MACs again to twice as many and is ahead in each
  of three seeds, by 2.8 to 6.0 points. Most of that is `--divisor auto`,
  the default under a latency budget (divisor.md); the MACs search is as it comes, at divisor 1.
- The MACs searches came to rest within 2.6 points of the other's latency (three tries of a secant): see the shares.
"""  # what a fair reader concludes, kept by hand


def network(name: str, folder: Path) -> tuple[torch.nn.Module, ImageData]:
    """The dense network and its data."""
    if name == "resnet20":
        return dense_network(folder / WEIGHTS), images(folder)
    torch.manual_seed(0)
    model = torchvision.models.mobilenet_v2(weights=None).eval()
    images(folder)  # unpacked
    where = f"imagefolder:{CACHE / 'cifar10_jpeg'}"
    return model, load(where, val_images=64, seed=0, image_size=224, max_images=256, mean=MEAN, std=STD)


def dense_path(name: str) -> Path:
    """Where it lies."""
    return CACHE / "latency" / f"{name}-any.onnx"


def dense_file(name: str, model: torch.nn.Module, size: int) -> Path:
    """The dense network as ONNX, written once, as a run delivers it: for any batch."""
    path = dense_path(name)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        to_onnx(model, torch.zeros(1, 3, size, size), path)
    return path


def measured(dense: Path, pruned: Path) -> dict[str, float]:
    """Milliseconds of both files in ONNX Runtime, and the share (see `in_turns`)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1

    def loaded() -> list[Callable[[], Any]]:
        runs = []
        for file in (dense, pruned):
            session = onnxruntime.InferenceSession(str(file), options, PROVIDERS)
            first = session.get_inputs()[0]
            shape = [1 if not isinstance(n, int) else n for n in first.shape]
            feed = {first.name: np.zeros(shape, dtype=np.float32)}
            runs.append(partial(session.run, None, feed))
        return runs

    return in_turns(loaded)


def in_turns(loaded: Callable[[], list[Callable[[], Any]]]) -> dict[str, float]:
    """Milliseconds of a dense and a pruned network, and the share: the median over rounds and half its quartiles' gap.

    Args:
        loaded: Gives what runs the one and the other; called for each pass, as where memory lies is luck.
    """
    table = np.empty((PASSES * ROUNDS, 2))
    for turn in range(len(table)):
        if turn % ROUNDS == 0:
            runs = loaded()
        for column in (0, 1) if turn % 2 else (1, 0):
            runs[column]()
            best = np.inf
            for _ in range(RUNS):
                started = time.perf_counter()
                runs[column]()
                best = min(best, 1e3 * (time.perf_counter() - started))
            table[turn, column] = best
    low, share, high = np.quantile(table[:, 1] / table[:, 0], [0.25, 0.5, 0.75])
    dense_ms, pruned_ms = np.median(table, axis=0)
    return {"dense_ms": dense_ms, "pruned_ms": pruned_ms, "share": share, "spread": (high - low) / 2}


def search(name: str, budget: str, seed: int, folder: Path, how: dict[str, Any], run: Path) -> dict[str, Any]:
    """One search, its exported file measured."""
    model, data = network(name, folder)
    started = time.perf_counter()
    if run.is_dir():
        result = autoprune.resume(run, model=model, data=data)
    else:
        told = {"epochs": 0, "onnx": True, "name": str(run), "seed": seed, **how}
        result = autoprune.search(model, data, budget, **told)
    took = time.perf_counter() - started
    kept = result.space.kept(result.widths, RunDirectory.open(run).scores())
    return {
        "budget": budget,
        "seed": seed,
        **measured(dense_file(name, model, data.shape[-1]), run / "best" / "model.onnx"),
        "predicted": result.costs.get(METRIC, {}).get("pruned"),
        "predicted_dense": result.costs.get(METRIC, {}).get("dense"),
        "macs": result.costs["macs"]["pruned"] / result.costs["macs"]["dense"],
        "loss": result.trial.loss,
        "fidelity": result.trial.fidelity,
        "evaluations": len(RunDirectory.open(run).record().trials),
        "kept": [k.tolist() for k in kept],
        "seconds": took,
        "machine": machine(),
    }


def holds(name: str, seed: int, folder: Path) -> dict[str, Any]:
    """One of the five; its file is measured in a piece of its own, which may be deleted to measure it again."""
    label = f"latency/holds-{name}-s{seed}"
    run = CACHE / f"{label}-run"
    budget = f"latency<=60%@{METRIC.partition('@')[2]}"
    found = piece(label, lambda: search(name, budget, seed, folder, HOW[name], run))
    files = dense_path(name), run / "best" / "model.onnx"
    return found | piece(f"{label}-file", lambda: measured(*files))


def pays(limit: str, seed: int, folder: Path) -> dict[str, Any]:
    """Both ways to the same measured latency, and what they cost in accuracy."""
    label = f"latency/pays-{limit}-s{seed}"

    def one(budget: str, tag: str) -> dict[str, Any]:
        return piece(
            f"{label}-{tag}", lambda: search("resnet20", budget, seed, folder, PAYS, CACHE / f"{label}-{tag}-run")
        )

    ours = one(f"latency<={limit}@{METRIC.partition('@')[2]}", "latency")
    tried: list[tuple[float, dict[str, Any]]] = []
    share = float(limit.rstrip("%")) / 100
    for number in range(TRIES):
        found = one(f"macs<={100 * share:.2f}%", f"macs-{number}")
        tried.append((share, found))
        if 0 <= ours["share"] - found["share"] <= NEAR:
            break
        share = aim(tried, ours["share"] - NEAR / 2)
    theirs = min((f for _, f in tried), key=lambda f: abs(f["share"] - ours["share"]))
    data, weights = images(folder), folder / WEIGHTS
    ours_epoch = piece(f"{label}-latency-epoch", lambda: one_epoch(data, weights, ours["kept"], seed))
    tag = next(n for n, (_, f) in enumerate(tried) if f is theirs)
    theirs_epoch = piece(f"{label}-macs-{tag}-epoch", lambda: one_epoch(data, weights, theirs["kept"], seed))
    return {"ours": {**ours, **ours_epoch}, "theirs": {**theirs, **theirs_epoch}, "searches": len(tried)}


def aim(tried: Sequence[tuple[float, dict[str, Any]]], wanted: float) -> float:
    """The MACs share whose latency should be the wanted one: a secant through the two latest points."""
    (x1, found) = tried[-1]
    x0, y0 = (tried[-2][0], tried[-2][1]["share"]) if len(tried) > 1 else (1.0, 1.0)
    y1 = found["share"]
    slope = (y1 - y0) / (x1 - x0) if abs(x1 - x0) > 1e-4 else 1.0
    slope = slope if 0.2 < slope < 3 else 1.0
    return float(np.clip(x1 + (wanted - y1) / slope, 0.05, 0.99))


def machine() -> str:
    """Where this runs."""
    return f"{processor()}, 1 thread, torch {torch.__version__}, ONNX Runtime {version('onnxruntime')}"


def tabulate() -> None:
    """Write latency_budget.md from the pieces that are there."""

    pieces = {p.stem: json.loads(p.read_text()) for p in sorted((CACHE / "latency").glob("*.json"))}
    machines = ", ".join(sorted({p["machine"] for p in pieces.values() if "machine" in p}))
    lines = ["# Latency budgets: whether they hold, and whether they pay", "", __doc__.split("\n\n", 1)[1].strip(), ""]
    lines += [f"Machines: {machines}.", "", "## What a fair reader concludes", "", CONCLUSION.strip(), ""]
    lines += ["## `latency<=60%@onnxruntime,batch=1,threads=1`: the exported file", ""]
    lines += ["| network | seed | dense ms | file ms | measured share | predicted | MACs kept | evaluations | wall s |"]
    lines += ["|---|---:|---:|---:|---:|---:|---:|---:|---:|"]
    for name in HOW:
        labels = [k for k in pieces if k.startswith(f"holds-{name}-s") and k[-1].isdigit()]
        rows = [pieces[k] | pieces.get(f"{k}-file", {}) for k in labels]
        for r in rows:
            told = f"{100 * r['predicted'] / r['predicted_dense']:.1f} %" if r["predicted"] else "-"
            share = f"{100 * r['share']:.1f} ± {100 * r['spread']:.1f} %"
            lines.append(
                f"| {name} | {r['seed']} | {r['dense_ms']:.3f} | {r['pruned_ms']:.3f} | {share} | {told} | "
                f"{100 * r['macs']:.1f} % | {r['evaluations']} | {r['seconds']:.0f} |"
            )
        if rows:
            within = f"**within the budget: {sum(r['share'] <= 0.6 for r in rows)} of {len(rows)}**"
            lines.append(f"| **{name}** | | | | {within} | | | | |")
    lines += ["", "## The same latency by a MACs budget (ResNet-20, one-epoch protocol, test top-1)", ""]
    lines += ["| budget | search | share measured | MACs kept | validation loss | test top-1 | each seed |"]
    lines += ["|---|---|---:|---:|---:|---:|---|"]
    for limit in sorted({k.split("-")[1] for k in pieces if k.startswith("pays-")}, reverse=True):
        done = [p for k, p in pieces.items() if k.startswith(f"pays-{limit}-s") and "ours" in p]
        for who, title in (("ours", f"latency<={limit}"), ("theirs", "macs, moved to the same latency")):
            if not done:
                continue
            each = [p[who] for p in done]
            shares = ", ".join(f"{100 * e['share']:.1f}" for e in each)
            kept = ", ".join(f"{100 * e['macs']:.1f}" for e in each)
            tops = ", ".join(f"{e['test']:.2f}" for e in each)
            losses = f"{statistics.mean(e['loss'] for e in each):.4f}"
            row = (
                f"latency {limit}",
                title,
                f"{shares} %",
                f"{kept} %",
                losses,
                spread([e["test"] for e in each]),
                tops,
            )
            lines.append(f"| {' | '.join(row)} |")
    write_text(HERE / "latency_budget.md", "\n".join(lines) + "\n")


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=list(SEEDS))
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="folder with the data and the weights"
    )
    parser.add_argument("--models", nargs="+", default=list(HOW), choices=list(HOW))
    parser.add_argument("--limits", nargs="+", default=["60%"])
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--tabulate", action="store_true")
    args = parser.parse_args()
    for seed in args.seeds or (SEEDS[args.part] if args.part else ()):
        for what in args.models if args.part == "holds" else args.limits:
            if args.part == "holds":
                found = holds(what, seed, args.data)
                print(f"{what} s{seed}: {100 * found['share']:.1f} % measured", flush=True)
            else:
                both = piece(f"latency/pays-{what}-s{seed}", lambda w=what, s=seed: pays(w, s, args.data))
                print(f"{what} s{seed}: {both['ours']['test']:.2f} against {both['theirs']['test']:.2f}", flush=True)
    tabulate()


if __name__ == "__main__":
    main()
