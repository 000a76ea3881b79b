"""How well the latency predictor does: error and rank correlation on held-out candidates, and what measuring costs.

    python results/benchmarks/latency_predictor.py [resnet20 mobilenet_v2 resnet50] [--backends onnxruntime torch]

On a machine that others share, bursts of measuring run at real-time priority (as root) and rest in between.
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torchvision
from scipy.stats import spearmanr

from objectives import Feasibility, parse
from objectives.latency import OnnxRuntime, Target, make, study
from objectives.latency.environment import environment
from objectives.latency.measuring import sample
from objectives.latency.onnx_files import exported
from objectives.latency.sites import Channels, sites_of
from objectives.latency.timing import quietest, rounds
from search_spaces import prune, trace
from search_spaces.models import resnet20

MODELS = {"resnet20": 32, "mobilenet_v2": 224, "resnet50": 224}
COUNTS = {"resnet20": 96, "mobilenet_v2": 96, "resnet50": 48}


class Bursts:
    """Counts the seconds of measuring; at real-time priority where that is allowed, resting afterwards."""

    def __init__(self, rest: float = 0.6) -> None:
        self.seconds, self.rest = 0.0, rest

    def __call__(self, measure) -> None:
        try:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(20))
        except (AttributeError, PermissionError):
            pass
        started = time.perf_counter()
        try:
            measure()
        finally:
            took = time.perf_counter() - started
            self.seconds += took
            if hasattr(os, "sched_setscheduler"):
                os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
            time.sleep(self.rest * took)


class Single(OnnxRuntime):
    """Loads small networks by the quick exporter."""

    def load_quick(self, model, example):
        return self._session(exported(model, example, quick=True), example)


def network(name: str) -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = resnet20() if name == "resnet20" else getattr(torchvision.models, name)()
    return model.eval(), torch.randn(1, 3, MODELS[name], MODELS[name])


def at_budget(there, latency, model, space, example, bursts, count=5) -> str:
    """Random proposals brought to 60 % of the predicted latency, built for real, measured beside the dense network."""
    feasibility = Feasibility(space, [parse(f"latency<=60%@{there.name}")], costs={latency.name: latency})
    rng = np.random.default_rng(7)
    widths = [feasibility.project(space.sample(rng)) for _ in range(count)]
    with there.ready():
        runs = {"dense": there.load(copy.deepcopy(model), example)}
        for number, candidate in enumerate(widths):
            small = prune(model, space, [np.arange(w) for w in candidate]).eval()
            runs[str(number)] = there.load(small, example)
        table = rounds(runs, 8, around=bursts)
    took = quietest(table)
    shares, predicted = took[1:] / took[0], latency(np.array(widths)) / latency(space.full)
    pairs = ", ".join(f"{100 * p:.1f} / {100 * m:.1f}" for p, m in zip(predicted, shares, strict=True))
    return f"{took[0]:.3f} | {pairs} | {(shares <= 0.6).sum()} of {count}"


def single_layers(there, model, space, example, bursts, count=8) -> str:
    """What a table of single layers can do at best: every layer alone at its very widths, summed, one factor fitted."""
    widths = [sample(space, number) for number in range(count)]
    sites = sites_of(model, space, example)
    reads, makes = Channels(sites, len(space.groups))(np.array(widths))
    modules = dict(model.named_modules())
    sizes: dict[str, tuple[int, ...]] = {}
    handles = [
        modules[s.name].register_forward_hook(lambda m, i, o, n=s.name: sizes.update({n: tuple(i[0].shape)}))
        for s in sites
    ]
    with torch.inference_mode():
        model(example)
    for handle in handles:
        handle.remove()
    build, sums, whole = there.candidates(model, space, example), np.zeros(count), {}
    runs = {}
    for number in range(count):
        whole[str(number)] = build(widths[number])
        for column, site in enumerate(sites):
            i, o = int(reads[number, column]), int(makes[number, column])
            old = modules[site.name]
            if isinstance(old, torch.nn.Conv2d):
                groups = o if site.kind == "depthwise" else 1
                conv = torch.nn.Conv2d(i, o, old.kernel_size, old.stride, old.padding, groups=groups)
                alone = torch.nn.Sequential(conv, torch.nn.ReLU())
            else:
                alone = torch.nn.Linear(i, o)
            shape = list(sizes[site.name])
            shape[1] = i
            runs[f"{number} {site.name}"] = getattr(there, "load_quick", there.load)(alone.eval(), torch.randn(shape))
    with there.ready():
        table = rounds(runs, 3, around=bursts)
        measured = quietest(rounds(whole, 5, around=bursts))
    for name, ms in zip(runs, np.median(table, axis=0), strict=True):
        sums[int(name.split()[0])] += ms
    factor = np.median(measured / sums)
    error = 100 * np.abs(factor * sums / measured - 1)
    return f"{factor:.2f} | {error.mean():.1f} | {error.max():.0f} | {spearmanr(sums, measured)[0]:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--backends", nargs="*", default=["onnxruntime", "torch"])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.mkdtemp()))
    parser.add_argument("--at-budget", action="store_true", help="also build and measure networks at 60 %")
    parser.add_argument("--single-layers", action="store_true", help="only: what layers measured alone can do")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.models:
        model, example = network(name)
        space = trace(model, example)
        for where in given.backends:
            target, bursts, started = Target(where), Bursts(), time.perf_counter()
            if given.single_layers:
                there = Single(target.setting()) if where == "onnxruntime" else make(target)
                print(
                    f"| {name} | {where} | {single_layers(there, model, space, example, bursts)} | "
                    f"{bursts.seconds:.0f} |"
                )
                continue
            latency = study(
                make(target), str(target), model, space, example,
                seconds=1e9, most=COUNTS[name], folder=given.folder, around=bursts,
            )  # fmt: skip
            wall = time.perf_counter() - started
            q = latency.quality
            print(
                f"| {name} | {where} | {latency.dense:.2f} | {q.candidates} | {q.mape:.1f} | {q.worst:.0f} | "
                f"{q.spearman:.3f} | {bursts.seconds:.0f} | {wall:.0f} |",
                flush=True,
            )
            if given.at_budget:
                print(
                    f"| {name} | {where} | {at_budget(make(target), latency, model, space, example, bursts)} |",
                    flush=True,
                )
    print(environment("cpu", 1, ("torch", "onnxruntime")))


if __name__ == "__main__":
    main()
