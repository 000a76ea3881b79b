"""How well the latency predictor does: error and rank correlation on held-out candidates, and what measuring costs.

    python results/benchmarks/latency_predictor.py [resnet20 mobilenet_v2 resnet50] [--backends onnxruntime torch]

On a machine that others share, bursts of measuring run at real-time priority (as root) and rest in between.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import torch
import torchvision

from objectives.latency import Target, make, study
from search_spaces import trace
from search_spaces.models import resnet20

MODELS = {"resnet20": 32, "mobilenet_v2": 224, "resnet50": 224}
COUNTS = {"resnet20": 96, "mobilenet_v2": 96, "resnet50": 72}


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


def network(name: str) -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = resnet20() if name == "resnet20" else getattr(torchvision.models, name)()
    return model.eval(), torch.randn(1, 3, MODELS[name], MODELS[name])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--backends", nargs="*", default=["onnxruntime", "torch"])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.mkdtemp()))
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.models:
        model, example = network(name)
        space = trace(model, example)
        for where in given.backends:
            target, bursts, started = Target(where), Bursts(), time.perf_counter()
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
    print(latency.about)


if __name__ == "__main__":
    main()
