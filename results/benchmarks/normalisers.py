"""What should a score be divided by? ResNet-20 / CIFAR-10-JPEG at equal MACs, and what the networks then really take.

    python results/benchmarks/normalisers.py --data ../shared/data [--limits 50% 30%] [--seeds 0 1 2] [--epochs 0]
        [--tabulate]

Group Fisher's scores (gradients on 2,048 training images, drawn by the seed), cut by `--strategy knapsack` to the same
MACs with `--score-per none | macs | activations | latency@...`. All networks of a seed and the dense one take turns on
each device. Pieces are cached, so a killed run goes on. Bursts of measuring run at real-time priority where that is
allowed.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from divisor import predictor
from latency_predictor import Bursts
from protocol import (
    CACHE,
    HERE,
    WEIGHTS,
    dense_network,
    images,
    macs,
    one_epoch,
    piece,
    processor,
    reconstructed,
    spread,
)

from autoprune import criteria
from autoprune.allocation import knapsack
from autoprune.compute import Compute
from autoprune.data import ImageData
from autoprune.evaluation import measure
from autoprune.files import write_text
from autoprune.problem import Problem
from autoprune.recovery import reestimate_evenly
from objectives import parse
from objectives.latency import Target, rebatched
from objectives.latency import make as make_backend
from objectives.latency.comparing import Comparison
from objectives.latency.environment import environment
from objectives.latency.timing import quietest, rounds
from search_spaces import Widths, prune, trace
from search_spaces.encodings import Ranking

DEVICES = [Target(backend, batch) for backend in ("onnxruntime", "torch") for batch in (1, 32)]
LEARNT = [str(Target(backend)) for backend in ("onnxruntime", "torch")]  # milliseconds as a normaliser
TITLES = {"none": "plain", "macs": "per MACs", "activations": "per activation memory"}
TITLES |= {name: f"per ms of {Target.parse(name).backend}, batch 1" for name in LEARNT}
PASSES, TURNS = 11, 2
PUBLISHED = {"none": "1.31", "macs": "1.39", "activations": "1.79"}
CONCLUSION = """
"""  # what a fair reader concludes, kept by hand


def problem_of(limit: str, seed: int, data: ImageData, weights: Path) -> Problem:
    """The scores of a seed, and a MACs budget; predictors are there to divide by."""
    model = dense_network(weights)
    space = trace(model, torch.zeros(1, 3, 32, 32)).with_limits(min_keep=0.05)

    def compute() -> dict[str, Any]:
        batches = data.train.sample(2048, seed).batches(128)
        normal = ((data.normalise(b.images), b.labels) for b in batches)
        return {"scores": [s.tolist() for s in criteria.score_all("group_fisher", model, space, normal, seed)]}

    scores = tuple(np.array(s) for s in piece(f"normalisers/scores-s{seed}", compute)["scores"])
    latency = {name: _predictor(Target.parse(name).backend, weights) for name in LEARNT}
    return Problem(space, (parse(f"macs<={limit}"),), scores, latency=latency)


_predictor = functools.lru_cache(predictor)


def freed(problem: Problem, per: str, widths: np.ndarray) -> np.ndarray:
    """[G] what one unit less of each group frees."""
    if per == "none":
        return np.ones(len(widths))
    price = problem.feasibility.costs[per]
    return np.asarray(price(widths[None]) - price(widths - np.eye(len(widths))))


def one_at_a_time(problem: Problem, per: str) -> Widths:
    """Group Fisher's loop without its training: the unit with the least score per cost goes, the costs are anew."""
    ascending, floor = [np.sort(s) for s in problem.scores], np.array(problem.space.floor)
    widths = np.array(problem.space.full, dtype=np.float64)
    while not problem.feasibility.fits(widths[None])[0]:
        least = np.array([s[len(s) - int(w)] for s, w in zip(ascending, widths, strict=True)])
        worth = least / np.maximum(freed(problem, per, widths), 1e-12)
        widths[np.argmin(np.where(widths > floor, worth, np.inf))] -= 1
    return problem.project(widths)


def once(problem: Problem, per: str) -> Widths:
    """One threshold, at what units cost in the dense network."""
    scale = 1 / freed(problem, per, np.array(problem.space.full, dtype=np.float64))
    ranking = Ranking(problem.space, problem.scores)
    return problem.project(ranking.cut(scale / scale.max(), 0 * scale, problem.feasibility.fits))


WAYS = {"knapsack": lambda p, per: knapsack(replace(p, score_per=per)), "one at a time": one_at_a_time, "once": once}


def network(per: str, limit: str, seed: int, data: ImageData, weights: Path) -> dict[str, Any]:
    """One network: its widths by every way, its costs, and its test accuracy without training."""
    problem = problem_of(limit, seed, data, weights)
    space, ways = problem.space, {name: list(way(problem, per)) for name, way in WAYS.items()}
    widths = tuple(ways["knapsack"])
    kept = [k.tolist() for k in space.kept(widths, problem.scores)]
    dense, compute = dense_network(weights), Compute.choose("auto")
    model = compute.place(prune(dense, space, kept)).eval()
    reestimate_evenly(model, data, data.train.sample(1000, seed), 128, compute)
    costs = {name: cost(widths) / cost(space.full) for name, cost in problem.feasibility.costs.items()}
    return {
        "ways": ways,
        "widths": list(widths),
        "kept": kept,
        "costs": {**costs, "macs": macs(prune(dense, space, kept)) / macs(dense)},
        "test_bn": 100 * measure(model, data, "test")["top1"],
        "test_fitted": 100 * measure(reconstructed(data, weights, kept, seed), data, "test")["top1"],
    }


@functools.lru_cache
def builder(where: str, weights: Path) -> tuple[Any, Any]:
    """A device, and what makes networks ready there."""
    target = Target.parse(where)
    there, model = make_backend(target), dense_network(weights)
    example = rebatched(torch.zeros(1, 3, 32, 32), target.batch)
    with there.ready():
        return there, there.candidates(model, trace(model, example[:1]), example)


def speeds(where: str, networks: dict[str, Sequence[int]], weights: Path) -> dict[str, Any]:
    """Milliseconds [passes, 1 + networks] of the dense network and the others, loaded anew for each pass."""
    there, build = builder(where, weights)
    full, took, bursts = trace(dense_network(weights), torch.zeros(1, 3, 32, 32)).full, [], Bursts()
    with there.ready():
        for _ in range(PASSES):
            runs = {"dense": build(full)} | {name: build(tuple(widths)) for name, widths in networks.items()}
            took.append(quietest(rounds(runs, TURNS, there.runs, bursts)).tolist())
    return {"names": list(networks), "ms": took}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10_jpeg.tar.xz and the weights")
    parser.add_argument("--limits", nargs="+", default=["50%", "30%"], help="MACs that may be kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, nargs="*", default=[], help="seeds that are trained for one epoch, too")
    parser.add_argument("--tabulate", action="store_true", help="run nothing, only write the table of what is there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    data, weights = images(args.data), args.data / WEIGHTS
    rows = [(limit, seed, per) for limit in args.limits for seed in args.seeds for per in TITLES]
    found = {r: _piece(args, r, "", functools.partial(network, r[2], r[0], r[1], data, weights)) for r in rows}
    for limit in args.limits:
        for seed in args.seeds:
            nets = {per: f["widths"] for (a, b, per), f in found.items() if (a, b) == (limit, seed) and f}
            for where in map(str, DEVICES):
                took = _piece(args, (limit, seed, where), "-ms", functools.partial(speeds, where, nets, weights))
                for column, per in enumerate(took.get("names", [])):
                    pair = np.array(took["ms"])[:, [0, column + 1]]
                    found[limit, seed, per].setdefault("took", {})[where] = Comparison.of(pair)
    for limit, seed, per in rows:
        if (f := found[limit, seed, per]) and (seed in args.epochs or args.tabulate):
            run = functools.partial(one_epoch, data, weights, f["kept"], seed)
            f["epoch"] = _piece(args, (limit, seed, per), "-epoch", run).get("test")
    write(args.limits, {k: f for k, f in found.items() if f})


def _piece(args: argparse.Namespace, row: tuple[str, int, str], tag: str, make: Any) -> dict[str, Any]:
    name = "normalisers/" + "-".join(map(str, row)).replace("@", "-").replace(",", "-").replace("=", "") + tag
    if args.tabulate and not (CACHE / f"{name}.json").is_file():
        return {}
    told = piece(name, make)
    print(name, told.get("test_fitted", told.get("test", "")), flush=True)
    return told


def each(values: Sequence[float], form: str = ".2f") -> str:
    """Mean, and every seed."""
    return f"{statistics.mean(values):{form}} ({', '.join(f'{v:{form}}' for v in values)})"


def tables(limit: str, found: dict[tuple[str, int, str], dict[str, Any]]) -> list[str]:
    """What was kept and what it is worth, and how fast it is."""
    kept = [
        "| scores | MACs | activations | parameters | top-1, batch-norm | top-1, least squares | top-1, one epoch |"
    ]
    kept += ["|---|---:|---:|---:|---:|---:|---:|"]
    fast = ["| scores | " + " | ".join(f"{d.backend}, batch {d.batch}" for d in DEVICES) + " | published, GPU |"]
    fast += ["|---|" + "---:|" * (len(DEVICES) + 1)]
    for per, title in TITLES.items():
        of = [f for (a, _, b), f in found.items() if (a, b) == (limit, per)]
        if not of:
            continue
        costs = (f"{100 * statistics.mean(f['costs'][c] for f in of):.1f} %" for c in ("macs", "activations", "params"))
        tops = [spread([f[k] for f in of]) for k in ("test_bn", "test_fitted")]
        trained = [f["epoch"] for f in of if f.get("epoch")]
        kept.append(f"| {title} | {' | '.join([*costs, *tops])} | {spread(trained) if trained else ''} |")
        cells = []
        for where in map(str, DEVICES):
            took = [f["took"][where] for f in of if where in f.get("took", {})]
            cells.append(each([1 / t.share for t in took]) if took else "")
        published = f"{PUBLISHED.get(per, '')}" if limit == "50%" else ""
        fast.append(f"| {title} | {' | '.join(cells)} | {published} |")
    return [*kept, "", "Speed-up over the dense network, mean and each seed:", "", *fast]


def ways(limit: str, found: dict[tuple[str, int, str], dict[str, Any]]) -> list[str]:
    """By how many units the ways to the same budget differ."""
    rows = []
    for per, title in TITLES.items():
        of = [f["ways"] for (a, _, b), f in found.items() if (a, b) == (limit, per)]
        if of:
            apart = [
                ", ".join(str(int(np.abs(np.subtract(w["one at a time"], w[way])).sum())) for w in of)
                for way in ("knapsack", "once")
            ]
            rows.append(f"| {limit} | {title} | {' | '.join(apart)} |")
    return rows


def write(limits: Sequence[str], found: dict[tuple[str, int, str], dict[str, Any]]) -> None:
    """normalisers.md."""
    told = environment("cpu", 1, ("torch", "onnxruntime"))
    errors = [100 * t.share_error / t.share for f in found.values() for t in f.get("took", {}).values()]
    worst = f"{statistics.median(errors):.1f} % (median) and at most {max(errors):.1f} %" if errors else "unknown"
    head = [
        "# What should a score be divided by?",
        "",
        "`python results/benchmarks/normalisers.py`: ResNet-20 / CIFAR-10-JPEG, Group Fisher's scores of 2,048 training",
        "images, three draws of them, cut by the knapsack (`--strategy knapsack --score-per ...`) to equal MACs;",
        f"{processor()} ({told['device']}), 1 thread, torch {told['torch']}, ONNX Runtime {told['onnxruntime']}.",
        "Test top-1 of the dense network: 88.16 %. Every network is measured in turns with the dense one, in",
        f"{PASSES} passes that load both anew; the standard error of a speed-up is {worst} of it.",
    ]
    body = [line for limit in limits for line in ("", f"## `macs<={limit}`", "", *tables(limit, found))]
    widths = ["", "## Widths (first seed), in the order of the network", ""]
    for limit in limits:
        for per, title in TITLES.items():
            f = next((f for (a, _, b), f in found.items() if (a, b) == (limit, per)), None)
            if f:
                widths.append(f"- {limit}, {title}: {' '.join(map(str, f['widths']))}")
    differ = ["", "## Costs taken anew as units go", ""]
    differ += ["Units (of 448) in which the widths differ from those of removing one unit at a time, each seed:", ""]
    differ += ["| MACs | scores | knapsack (24 rounds) | costs of the dense network, once |", "|---|---|---|---|"]
    differ += [row for limit in limits for row in ways(limit, found)]
    write_text(HERE / "normalisers.md", "\n".join([*head, *body, *widths, *differ, "", CONCLUSION.strip(), ""]))
    print("\n".join(body + differ))


if __name__ == "__main__":
    main()
