"""The least multiply-adds that each network of the zoo can be pruned to, and whether pruning keeps its function.

    python results/benchmarks/reachable.py [NAME ...] [--only-table]

Wanted: `pip install autoprune[zoo]`. The networks are those of tests/data/zoo.py, with random weights; at least 5 % of
every group stays. Each is traced, verified (three random choices of channels) and judged (tests/data/judge.py). Pieces
are kept in cache/reachable: what was begun goes on; given names are measured anew. Writes reachable.md beside this
file. (How long a trace takes: trace_and_prune.py.)
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
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
from search_spaces.verify import random_kept

CACHE = Path(__file__).parent / "cache" / "reachable"
SEEDS = (0, 1, 2)
MIN_KEEP = 0.05
FINE = ("output of the network", "one unit always stays, and there is only one")


def measure(name: str) -> dict[str, Any]:
    """One network: least MACs, differences."""
    model, example = zoo.build(name)
    space = trace(model, example)
    limited = space.with_limits(min_keep=MIN_KEEP)
    macs = Macs(limited)
    found = {
        "macs": float(macs(limited.full)), "least": float(macs(limited.floor)), "groups": len(space.groups),
        "frozen": reasons(space), "verify": verify(model, space, example, seeds=SEEDS), "judge": None,
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


def line(name: str, found: dict[str, Any]) -> str:
    """One row of the table."""
    if "error" in found:
        return f"| {name} | | | | {found['error']} |"
    share = found["least"] / found["macs"]
    judged = "" if found["judge"] is None else f"{found['judge']:.0e}"
    why = [w for w in found["frozen"] if not w.startswith(FINE)]
    more = f" and {len(why) - 1} more" if len(why) > 1 else ""
    most = f"{why[0]}{more}" if why else ""
    cells = (f"{100 * share:.1f} %", f"{found['verify']:.0e}", judged, most)
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
            "`verify`, `judge`: largest difference relative to what pruning changes, three choices.",
            f"{versions()}.\n",
            "| network | least | verify | judge | frozen besides the answer |",
            "|---|---|---|---|---|",
            *(line(name, pieces[name]) for name in zoo.NETWORKS if name in pieces),
            "",
        ]
    )


def versions() -> str:
    """Of everything that is measured."""
    from importlib.metadata import PackageNotFoundError, version

    found = [f"Python {platform.python_version()}"]
    for package in ("torch", "torchvision", "timm", "transformers"):
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
