"""Depth together with widths: what blocks that may go buy under latency budgets.

    python results/benchmarks/depth.py pays --data ../shared/data [--limits 50% 30%] [--backends onnxruntime torch]
    python results/benchmarks/depth.py branches --data ../shared/data
    python results/benchmarks/depth.py --tabulate

*pays*: for each backend, limit and seed a search with depth and one without, on ResNet-20; the measured share, then the
one-epoch protocol. A budget that is out of reach is recorded as what the refusal says. *branches*: how well the loss
without a block ("replaced by its constant") and the sum of its units' scores rank the blocks by the loss after both the
block's removal and least-squares reconstruction. Pieces are cached, so a killed run goes on. Measure on a core that
nobody else uses.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from latency_budget import dense_file, machine, measured
from protocol import CACHE, HERE, WEIGHTS, dense_network, images, one_epoch, piece

import autoprune
from autoprune import criteria
from autoprune.compute import Compute
from autoprune.files import write_text
from autoprune.recovery.reconstruction import Reconstruction
from autoprune.runs.directory import RunDirectory
from autoprune.tasks import as_task
from objectives import InfeasibleBudget
from search_spaces import Dresser, trace

SEEDS = range(3)
WHERE = {"onnxruntime": "onnxruntime,batch=1,threads=1", "torch": "torch,batch=1,threads=1"}
HOW: dict[str, Any] = {"trials": 40, "finalists": 4, "short_steps": 50}
IMAGES = 512  # that score branches


def search(backend: str, limit: str, depth: str, seed: int, folder: Path) -> dict[str, Any]:
    """One search, what was measured of its network, and its one-epoch accuracy."""
    label = f"depth/pays-{backend}-{limit}-{depth}-s{seed}"
    run, model, data = CACHE / f"{label}-run", dense_network(folder / WEIGHTS), images(folder)
    budget = f"latency<={limit}@{WHERE[backend]}"
    try:
        if run.is_dir():
            result = autoprune.resume(run, model=model, data=data)
        else:
            told = {"epochs": 0, "onnx": True, "name": str(run), "seed": seed, "depth": depth, **HOW}
            result = autoprune.search(model, data, budget, **told)
    except InfeasibleBudget as error:
        return {"unreachable": str(error), "machine": machine()}
    kept = [k.tolist() for k in result.space.kept(result.widths, RunDirectory.open(run).scores())]
    share = next((m["share"] for n, m in result.metrics.items() if n.startswith("latency") and "share" in m), None)
    file = run / "best" / "model.onnx"
    on_file = measured(dense_file("resnet20", model, data.shape[-1]), file) if backend == "onnxruntime" else {}
    return {
        "share": on_file.get("share", share),
        "loss": result.trial.loss,
        "removed": [b.name for b in result.space.removed(result.widths)],
        "kept": kept,
        "machine": machine(),
        **one_epoch(data, folder / WEIGHTS, kept, seed, start=result.model),
    }


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
    lines = ["# Depth together with widths", "", (__doc__ or "").split("\n\n", 1)[1].strip(), ""]
    lines += ["| backend | budget | depth | seed | measured | loss | test top-1 | blocks removed |"]
    lines += ["|---|---|---|---:|---:|---:|---:|---|"]
    for name, found in pieces.items():
        if not name.startswith("pays-"):
            continue
        _, backend, limit, depth, seed = name.split("-")
        row = [backend, limit, depth, seed[1:]]
        if "unreachable" in found:
            row += ["unreachable", "", "", found["unreachable"].partition("keeps ")[2].partition(" (")[0]]
        else:
            row += [
                f"{100 * found['share']:.1f} %",
                f"{found['loss']:.4f}",
                f"{found['test']:.2f}",
                ", ".join(found["removed"]) or "none",
            ]
        lines.append(f"| {' | '.join(row)} |")
    if found := pieces.get("branches"):
        ranks = f"the loss without the block {found['loss without it']:.2f}, the sum of {found['sum of scores']:.2f}"
        lines += ["", f"Rank correlation with the loss after reconstruction, over the blocks of ResNet-20: {ranks}."]
    write_text(HERE / "depth.md", "\n".join(lines) + "\n")


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=["pays", "branches"])
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="folder with the data and the weights"
    )
    parser.add_argument("--limits", nargs="+", default=["50%", "30%"])
    parser.add_argument("--backends", nargs="+", default=list(WHERE), choices=list(WHERE))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--tabulate", action="store_true")
    args = parser.parse_args()
    (CACHE / "depth").mkdir(parents=True, exist_ok=True)
    if args.part == "branches":
        print(piece("depth/branches", lambda: branches(args.data)))
    elif args.part == "pays":
        for seed in args.seeds:
            for backend in args.backends:
                for limit in args.limits:
                    for depth in ("on", "off"):
                        label = f"depth/pays-{backend}-{limit}-{depth}-s{seed}"
                        found = piece(label, lambda b=backend, x=limit, d=depth, s=seed: search(b, x, d, s, args.data))
                        print(label, found.get("unreachable") or f"{100 * found['share']:.1f} %", flush=True)
    tabulate()


if __name__ == "__main__":
    main()
