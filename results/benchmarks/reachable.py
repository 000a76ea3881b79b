"""The least multiply-adds that each network of the zoo can be pruned to, and whether pruning keeps its function.

    python results/benchmarks/reachable.py [NAME ...] [--only-table]

Wanted: `pip install autoprune[zoo]`. The networks are those of tests/data/zoo.py, with random weights; at least 5 % of
every group stays. Each is traced, verified (three random choices of channels) and judged (tests/data/judge.py); where
Torch-Pruning can be imported, the time in which it builds its graph is told. Pieces are kept in cache/reachable: what
was begun goes on; given names are measured anew. Writes reachable.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "data"))

import numpy as np
import torch
import zoo
from judge import judge

from objectives.costs import Macs
from search_spaces import SearchSpace, trace, verify
from search_spaces.tracing import as_call
from search_spaces.verify import random_kept

CACHE = Path(__file__).parent / "cache" / "reachable"
SEEDS = (0, 1, 2)
MIN_KEEP = 0.05
PATIENCE_S = 30  # with the peer
FINE = ("output of the network", "one unit always stays, and there is only one")


def measure(name: str) -> dict[str, Any]:
    """One network: least MACs, differences, seconds of the processor."""
    model, example = zoo.build(name)
    began = time.process_time()
    space = trace(model, example)
    traced = time.process_time() - began
    limited = space.with_limits(min_keep=MIN_KEEP)
    macs = Macs(limited)
    found = {
        "macs": float(macs(limited.full)), "least": float(macs(limited.floor)), "groups": len(space.groups),
        "trace_s": traced, "frozen": reasons(space), "built_s": torch_pruning(name),
        "verify": verify(model, space, example, seeds=SEEDS), "judge": None,
    }  # fmt: skip
    if name not in zoo.UNJUDGED:
        kept = [random_kept(space, np.random.default_rng(seed)) for seed in SEEDS]
        found["judge"] = max(judge(model, space, k, example, seed) for seed, k in zip(SEEDS, kept, strict=True))
    return found


def reasons(space: SearchSpace) -> dict[str, int]:
    """Why groups are frozen -> how many are."""
    found: dict[str, int] = {}
    for group in space.frozen:
        found[group.frozen_because] = found.get(group.frozen_because, 0) + 1
    return found


def torch_pruning(name: str) -> float | None:
    """Seconds in which Torch-Pruning builds its graph and lists its groups; none where it cannot, or is not there."""
    try:
        import torch_pruning as tp
    except ImportError:
        return None
    model, example = zoo.build(name)
    args, _ = as_call(example)
    began = time.process_time()
    signal.signal(signal.SIGVTALRM, _too_long)
    signal.setitimer(signal.ITIMER_VIRTUAL, PATIENCE_S)
    try:
        graph = tp.DependencyGraph().build_dependency(model, example_inputs=args[0] if len(args) == 1 else args)
        for _ in graph.get_all_groups():
            pass
    except Exception:
        return None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return time.process_time() - began


def _too_long(*_: Any) -> None:
    raise TimeoutError


def line(name: str, found: dict[str, Any]) -> str:
    """One row of the table."""
    if "error" in found:
        return f"| {name} | | | | | | {found['error']} |"
    share = found["least"] / found["macs"]
    judged = "" if found["judge"] is None else f"{found['judge']:.0e}"
    why = [w for w in found["frozen"] if not w.startswith(FINE)]
    more = f" and {len(why) - 1} more" if len(why) > 1 else ""
    most = f"{why[0]}{more}" if why else ""
    built = "" if found["built_s"] is None else f"{found['built_s']:.2f}"
    cells = (f"{100 * share:.1f} %", f"{found['trace_s']:.2f}", built, f"{found['verify']:.0e}", judged, most)
    return f"| {name} | {' | '.join(cells)} |"


def table(pieces: dict[str, dict[str, Any]]) -> str:
    """The record, in Markdown."""
    good = [p for p in pieces.values() if "error" not in p]
    shares = [100 * p["least"] / p["macs"] for p in good]
    return "\n".join(
        [
            "# The least multiply-adds that can be reached\n",
            f"{len(good)} of {len(pieces)} networks traced and verified; of the least MACs the median is "
            f"{statistics.median(shares):.1f} %, the largest {max(shares):.1f} %. {MIN_KEEP:.0%} of every group "
            "stay at least; small configurations with random weights (tests/data/zoo.py).",
            "`trace`, `Torch-Pruning`: seconds of one processor, the latter to list its groups (empty: it cannot, or "
            "is not there). `verify`, `judge`: largest difference relative to what pruning changes, three choices.",
            f"{versions()}.\n",
            "| network | least | trace | Torch-Pruning | verify | judge | frozen besides the answer |",
            "|---|---|---|---|---|---|---|",
            *(line(name, pieces[name]) for name in zoo.NETWORKS if name in pieces),
            "",
        ]
    )


def versions() -> str:
    """Of everything that is measured."""
    from importlib.metadata import PackageNotFoundError, version

    found = [f"Python {platform.python_version()}"]
    for package in ("torch", "torchvision", "timm", "transformers", "torch-pruning"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return ", ".join(found)


def main() -> None:
    """Measure what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="networks to measure anew (default: all that are missing)")
    parser.add_argument("--only-table", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    CACHE.mkdir(parents=True, exist_ok=True)
    pieces: dict[str, dict[str, Any]] = {}
    for name in zoo.NETWORKS:
        path = CACHE / f"{name.replace('/', '-')}.json"
        if not given.only_table and (name in given.names or (not given.names and not path.exists())):
            try:
                found = measure(name)
            except Exception as error:
                found = {"error": f"{type(error).__name__}: {str(error)[:200]}".replace("\n", " ")}
            path.write_text(json.dumps(found))
            print(line(name, found), flush=True)
        if path.exists():
            pieces[name] = json.loads(path.read_text())
    Path(__file__).with_suffix(".md").write_text(table(pieces))


if __name__ == "__main__":
    main()
