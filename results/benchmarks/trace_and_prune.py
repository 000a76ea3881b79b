"""Times tracing, pruning, dressing and pricing, side by side, and writes trace_and_prune.md beside this file.

    python results/benchmarks/trace_and_prune.py [--repeats 9]

One thread, medians. Torch-Pruning is measured too where it can be imported, else the table says 'not installed'.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torchvision

from objectives.costs import Macs
from search_spaces import Dresser, prune, trace, verify
from search_spaces.models import resnet56
from search_spaces.verify import random_kept


def seconds(function: Callable[[], Any], repeats: int) -> float:
    """Median wall time after one warm-up."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def torch_pruning(model: torch.nn.Module, image: torch.Tensor, repeats: int) -> dict[str, str]:
    """Build its graph and prune half of the channels, each time from a fresh copy (as it prunes in place)."""
    try:
        import torch_pruning as tp
    except ImportError:
        return {"trace": "not installed", "candidate": "not installed"}

    def pruner(network: torch.nn.Module) -> Any:
        return tp.pruner.BasePruner(
            network, image, importance=tp.importance.MagnitudeImportance(p=2), pruning_ratio=0.5,
            ignored_layers=[m for m in network.modules() if isinstance(m, torch.nn.Linear)],
        )  # fmt: skip

    built = seconds(lambda: pruner(model), repeats)
    whole = seconds(lambda: pruner(copy.deepcopy(model)).step(), repeats)
    return {"trace": f"{built * 1e3:.0f} ms", "candidate": f"{whole * 1e3:.0f} ms"}


def measure(name: str, model: torch.nn.Module, size: int, repeats: int) -> list[str]:
    """The rows of one network."""
    rng = np.random.default_rng(0)
    model.eval()
    image = torch.randn(1, 3, size, size)
    space = trace(model, image)
    kept, dresser, price = random_kept(space, rng), Dresser(model, space), Macs(space)
    widths = np.array([space.sample(rng) for _ in range(4096)], dtype=np.float64)
    peer = torch_pruning(model, image, max(3, repeats // 3))
    ours = {
        "trace": seconds(lambda: trace(model, image), repeats),
        "verify (three seeds)": seconds(lambda: verify(model, space, image), max(3, repeats // 3)),
        "copy.deepcopy alone": seconds(lambda: copy.deepcopy(model), repeats),
        "prune (a new network)": seconds(lambda: prune(model, space, kept), repeats),
        "Dresser.dress (one instance again)": seconds(lambda: dresser.dress(kept), repeats),
    }
    theirs = {"trace": peer["trace"], "prune (a new network)": peer["candidate"]}
    rate = len(widths) / seconds(lambda: price(widths), repeats)
    return [
        *(f"| {name} | {what} | {t * 1e3:.1f} ms | {theirs.get(what, '')} |" for what, t in ours.items()),
        f"| {name} | price MACs, batches of 4096 | {rate:,.0f} candidates/s | |",
    ]


def report(repeats: int) -> str:
    """The table, in Markdown."""
    torch.set_num_threads(1)
    rows = [
        *measure("ResNet-50", torchvision.models.resnet50(), 224, repeats),
        *measure("ResNet-56", resnet56(), 32, repeats),
    ]
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}"
    return "\n".join(
        [
            "# search_spaces: what tracing, pruning and pricing cost\n",
            f"Median of {repeats} repeats, one thread, {machine} (load {os.getloadavg()[0]:.1f} at the end).",
            f"{versions}, NumPy {np.__version__}. Random 20-80 % of the channels of every group.\n",
            "| network | what | autoprune | Torch-Pruning |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    table = report(parser.parse_args().repeats)
    Path(__file__).with_suffix(".md").write_text(table)
    print(table)
