"""Times tracing, pruning, dressing and pricing, side by side, and writes trace_and_prune.md beside this file.

    python results/benchmarks/trace_and_prune.py [--repeats 9]

One thread, medians of processor time, ours and theirs in turn. Torch-Pruning is measured too where it can be imported,
else the table says 'not installed'. Networks that take long are traced once, beside their own forward pass. At the end
each network of tests/data/zoo.py, small as it is there: what a trace costs, and what Torch-Pruning's dependency graph.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import os
import platform
import signal
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "data"))

import numpy as np
import torch
import torchvision
import zoo

from objectives.costs import Macs
from search_spaces import Dresser, prune, trace, verify
from search_spaces.models import resnet56
from search_spaces.tracing import as_call
from search_spaces.verify import random_kept

PATIENCE_S = 10  # of processor time, with one function
LARGE = ("mvit_v2_s", "keypointrcnn_resnet50_fpn", "timm/coatnet_nano")


def once(function: Callable[[], Any]) -> float:
    """Processor time in seconds."""
    start = time.process_time()
    function()
    return time.process_time() - start


def seconds(function: Callable[[], Any], repeats: int) -> float:
    """Median processor time after one warm-up."""
    function()
    return statistics.median(once(function) for _ in range(repeats))


def in_turn(first: Callable[[], Any], second: Callable[[], Any] | None, repeats: int) -> tuple[float, float | None]:
    """The same of two functions, which meet the same load of the machine."""
    if second is None:
        return seconds(first, repeats), None
    first(), second()
    times = [(once(first), once(second)) for _ in range(repeats)]
    return statistics.median(a for a, _ in times), statistics.median(b for _, b in times)


def large(name: str) -> str:
    """The row of a network that takes long."""
    try:
        model, example = zoo.build(name)
    except ImportError:
        return f"| {name} | trace | not installed | |"
    args, kwargs = as_call(example)
    model.eval()
    with torch.no_grad():
        forward = once(lambda: model(*args, **kwargs))
    traced = once(lambda: trace(model, example))
    return f"| {name} | trace, once (its forward pass alone: {forward:.1f} s) | {traced:.1f} s | |"


def torch_pruning(model: torch.nn.Module, image: torch.Tensor) -> tuple[Callable[[], Any], Callable[[], Any]] | None:
    """What builds its graph, and what prunes half of the channels of a fresh copy (as it prunes in place), too."""
    try:
        import torch_pruning as tp
    except ImportError:
        return None

    def pruner(network: torch.nn.Module) -> Any:
        return tp.pruner.BasePruner(
            network, image, importance=tp.importance.MagnitudeImportance(p=2), pruning_ratio=0.5,
            ignored_layers=[m for m in network.modules() if isinstance(m, torch.nn.Linear)],
        )  # fmt: skip

    return lambda: pruner(model), lambda: pruner(copy.deepcopy(model)).step()


def measure(name: str, model: torch.nn.Module, size: int, repeats: int) -> list[str]:
    """The rows of one network."""
    rng = np.random.default_rng(0)
    model.eval()
    image = torch.randn(1, 3, size, size)
    space = trace(model, image)
    kept, dresser, price = random_kept(space, rng), Dresser(model, space), Macs(space)
    widths = np.array([space.sample(rng) for _ in range(4096)], dtype=np.float64)
    build, cut = torch_pruning(model, image) or (None, None)
    traced, built = in_turn(lambda: trace(model, image), build, repeats)
    pruned, cut_half = in_turn(lambda: prune(model, space, kept), cut, repeats)
    ours = {
        "trace": traced,
        "verify (three seeds)": seconds(lambda: verify(model, space, image), max(3, repeats // 3)),
        "copy.deepcopy alone": seconds(lambda: copy.deepcopy(model), repeats),
        "prune (a new network)": pruned,
        "Dresser.dress (one instance again)": seconds(lambda: dresser.dress(kept), repeats),
    }
    peer = {"trace": built, "prune (a new network)": cut_half}
    theirs = {what: "not installed" if t is None else f"{t * 1e3:.0f} ms" for what, t in peer.items()}
    rate = len(widths) / seconds(lambda: price(widths), repeats)
    return [
        *(f"| {name} | {what} | {t * 1e3:.1f} ms | {theirs.get(what, '')} |" for what, t in ours.items()),
        f"| {name} | price MACs, batches of 4096 | {rate:,.0f} candidates/s | |",
    ]


def compared(name: str, repeats: int = 3) -> list[float | None]:
    """Seconds to trace a network of the suite, to build Torch-Pruning's graph, and to list its groups, too."""
    model, example = zoo.build(name)
    model.eval()
    args, kwargs = as_call(example)
    inputs = kwargs or (args[0] if len(args) == 1 else list(args))

    def build(lists: bool) -> None:
        import torch_pruning

        with warnings.catch_warnings(), contextlib.redirect_stdout(None):
            warnings.simplefilter("ignore")
            graph = torch_pruning.DependencyGraph().build_dependency(model, inputs)
            for _ in graph.get_all_groups() if lists else ():
                pass

    ways = [lambda: trace(model, example), lambda: build(False), lambda: build(True)]
    alive = [way for way in ways if works(way)]
    rounds = [[once(way) for way in alive] for _ in range(repeats)]
    medians = {way: statistics.median(times) for way, times in zip(alive, zip(*rounds, strict=True), strict=True)}
    return [medians.get(way) for way in ways]


def works(function: Callable[[], Any]) -> bool:
    """Does it run, and is there an end of it?"""

    def too_long(*_: Any) -> None:
        raise TimeoutError

    signal.signal(signal.SIGVTALRM, too_long)
    signal.setitimer(signal.ITIMER_VIRTUAL, PATIENCE_S)
    try:
        function()
    except Exception:  # whatever it may be that it cannot do
        return False
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return True


def suite() -> list[str]:
    """The second table."""
    found: dict[str, list[float | None]] = {}
    for name in zoo.NETWORKS:
        with contextlib.suppress(ImportError):
            found[name] = compared(name)
    traced = {name: row[0] for name, row in found.items() if row[0] is not None}
    slow = max(traced, key=traced.__getitem__)
    lines = ["", f"## All {len(found)} networks of the suite", ""]
    lines += [f"Medians of three. The slowest trace: {slow}, {traced[slow]:.1f} s."]
    for what, column in (("build its graph of", 1), ("list its groups, too (as a trace does), of", 2)):
        ratios = sorted(row[0] / row[column] for row in found.values() if row[0] and row[column])
        if ratios:
            lines.append(
                f"Torch-Pruning can {what} {len(ratios)}: a trace takes {statistics.median(ratios):.1f} times as "
                f"long in the median, at most three times as long for {sum(ratio <= 3 for ratio in ratios)}, and "
                f"{ratios[-1]:.1f} times at worst."
            )
    lines += ["", "| network | trace, ms | Torch-Pruning: graph | and groups |", "|---|---|---|---|"]
    for name, row in found.items():
        cells = ("fails" if seconds_taken is None else f"{1e3 * seconds_taken:.0f}" for seconds_taken in row)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def report(repeats: int) -> str:
    """The table, in Markdown."""
    torch.set_num_threads(1)
    rows = [
        *measure("ResNet-50", torchvision.models.resnet50(), 224, repeats),
        *measure("ResNet-56", resnet56(), 32, repeats),
        *map(large, LARGE),
    ]
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}"
    return "\n".join(
        [
            "# search_spaces: what tracing, pruning and pricing cost\n",
            f"Processor time, median of {repeats} repeats, one thread, {machine} "
            f"(load {os.getloadavg()[0]:.1f} at the end).",
            f"{versions}, NumPy {np.__version__}. Random 20-80 % of the channels of every group.\n",
            "| network | what | autoprune | Torch-Pruning |",
            "|---|---|---|---|",
            *rows,
            *suite(),
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    table = report(parser.parse_args().repeats)
    Path(__file__).with_suffix(".md").write_text(table)
    print(table)
