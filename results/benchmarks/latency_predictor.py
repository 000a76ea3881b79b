"""How well the latency predictor does: error and rank correlation on held-out candidates, and what measuring costs.

    python results/benchmarks/latency_predictor.py [MODEL ...] [--backends onnxruntime torch] [--depth]

Models: resnet20, mobilenet_v2, resnet50. With --depth whole blocks may go: new candidates that lack some and new ones
that have all are told apart.

On a machine that others share, bursts of measuring run at real-time priority (as root) and rest in between.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torchvision
from scipy.stats import spearmanr

from objectives import Budget, Feasibility
from objectives.latency import OnnxRuntime, Target, make, study
from objectives.latency.environment import environment
from objectives.latency.onnx_files import exported
from objectives.latency.sampling import sample
from objectives.latency.sites import Channels, sites_of
from objectives.latency.timing import quietest, rounds
from search_spaces import trace
from search_spaces.models import resnet20

MODELS = {"resnet20": 32, "mobilenet_v2": 224, "resnet50": 224}


class Bursts:
    """Counts the seconds of measuring; at real-time priority where that is allowed, resting afterwards."""

    def __init__(self, rest: float = 0.4) -> None:
        self.seconds, self.rest = 0.0, rest

    def __call__(self, measure) -> None:
        try:
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(30))
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


def proposed(there, latency, model, space, example, bursts, chunks=2, count=12, holes=False) -> str:
    """What a search would propose after the predictor is made: new candidates, brought to a budget by it, measured.

    With `holes` each lacks a block.
    """
    rng, low, high = np.random.default_rng(7), *latency(np.array([space.floor, space.full]))
    predicted, measured = [], []
    with there.ready():
        build = there.candidates(model, space, example)
        for _ in range(chunks):
            runs = {"dense at first": build(space.full)}
            for number in range(count):
                limit = max(1.05 * low, rng.uniform(0.3, 0.9) * high)
                feasibility = Feasibility(space, [Budget(latency.name, limit)], costs={latency.name: latency})
                wish = space.sample(rng) if number % 2 else sample(space, int(rng.integers(2**31)))
                candidate = feasibility.project(wish)
                while holes and not space.removed(candidate):
                    candidate = feasibility.project(sample(space, int(rng.integers(2**31))))
                runs[str(number)] = build(candidate)
                predicted.append(latency(candidate) / high)
            runs["dense at last"] = runs["dense at first"]
            took = quietest(rounds(runs, there.turns, there.runs, bursts))
            measured += (took[1:-1] / np.sqrt(took[0] * took[-1])).tolist()
    ratio = np.array(measured) / predicted
    error = 100 * np.abs(1 / ratio - 1)
    rank = spearmanr(predicted, measured)[0]
    return f"{error.mean():.1f} | {error.max():.0f} | {rank:.3f} | {100 * np.median(ratio - 1):+.1f}"


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
    parser.add_argument("--single-layers", action="store_true", help="only: what layers measured alone can do")
    parser.add_argument("--depth", action="store_true", help="whole blocks may go")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.models:
        model, example = network(name)
        space = trace(model, example).with_limits(depth=given.depth)
        for where in given.backends:
            target, bursts, started = Target(where), Bursts(), time.perf_counter()
            if given.single_layers:
                there = Single(target.setting()) if where == "onnxruntime" else make(target)
                print(
                    f"| {name} | {where} | {single_layers(there, model, space, example, bursts)} | "
                    f"{bursts.seconds:.0f} |"
                )
                continue
            there = make(target)
            latency = study(there, str(target), model, space, example, folder=given.folder, around=bursts)
            wall, q = time.perf_counter() - started, latency.quality
            new = [proposed(there, latency, model, space.standing, example, bursts)]
            if given.depth:
                new.append(proposed(there, latency, model, space, example, bursts, holes=True))
            print(
                f"| {name} | {where} | {latency.dense:.2f} | {q.candidates} | {q.mape:.1f} | {q.worst:.0f} | "
                f"{q.spearman:.3f} | {bursts.seconds:.0f} | {wall:.0f} | {' | '.join(new)} |",
                flush=True,
            )
    print(environment("cpu", 1, ("torch", "onnxruntime")))


if __name__ == "__main__":
    main()
