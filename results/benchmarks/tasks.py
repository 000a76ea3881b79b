"""The default search beside uniform pruning and random search on the tasks of examples/, and tasks.md beside this file.

    python results/benchmarks/tasks.py [--seeds 3] [--trials 30] [--only text] [--steps 0.1]

For each example and seed the dense network is trained as the example trains it; each policy gets 50 % of its
multiply-adds and what is delivered the same trainings (the short one and the final one); but for uniform pruning,
which is one network, the same number of candidates and finalists. The score is of the test split, which nothing but
the end looks at. Results are kept piece by piece in cache/tasks/, so that a stopped script goes on where it was.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / "examples"), str(HERE.parents[1])]

import autoprune  # noqa: E402
from autoprune.files import write_text  # noqa: E402

TASKS = ("segmentation", "regression", "text", "detection")
POLICIES: dict[str, dict[str, Any]] = {
    "default": {},
    "random": {"strategy": "random", "warm_starts": "none"},
    "uniform": {"strategy": "uniform", "warm_starts": "none", "trials": 1, "finalists": 1},
}


def piece(name: str, policy: str, seed: int, trials: int, share: float) -> dict[str, Any]:
    """Test scores of one policy, from the cache if they are there."""
    path = HERE / "cache" / "tasks" / f"{name}-{policy}-{seed}-{trials}-{share:g}.json"
    if not path.is_file():
        usual = {"segmentation": 150, "regression": 300, "text": 400, "detection": 60}[name]
        model, task = importlib.import_module(name).make(seed=seed, steps=max(2, round(share * usual)))
        settings = {"trials": trials, "finalists": 4, "epochs": 3.0 * share, "seed": seed, **POLICIES[policy]}
        with tempfile.TemporaryDirectory() as folder:
            run = f"{folder}/run"
            found = autoprune.search(model, task, budget="macs<=50%", name=run, progress=False, **settings)
            said = {"dense": found.metrics["dense_test"], "pruned": found.metrics["pruned_test"]}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({**said, "score": task.labels().headline.name}))
    found = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def row(name: str, seeds: int, trials: int, share: float) -> str:
    """A line of the table: test loss of each policy, mean and spread over the seeds."""
    cells, means = [], {}
    for policy in POLICIES:
        found = [piece(name, policy, seed, trials, share) for seed in range(seeds)]
        losses = [f["pruned"]["loss"] for f in found]
        scores = [f["pruned"][f["score"]] for f in found]
        means[policy] = statistics.mean(losses), statistics.stdev(losses) if seeds > 1 else 0.0
        mean, spread = means[policy]
        cells.append(f"{mean:.4g} ± {spread:.2g} ({found[0]['score']} {statistics.mean(scores):.4g})")
    gain, spread = means["uniform"][0] - means["default"][0], max(means["uniform"][1], means["default"][1])
    verdict = "ahead of uniform" if gain > spread else "behind uniform" if gain < -spread else "within the spread"
    return f"| {name} | {' | '.join(cells)} | {verdict} |"


def main() -> None:
    """Work through what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--only", choices=TASKS)
    parser.add_argument("--steps", type=float, default=1.0, help="share of all trainings, for a quick look")
    asked = parser.parse_args()
    names = [asked.only] if asked.only else list(TASKS)
    lines = [
        "# Tasks: the default search, random search and uniform pruning at 50 % of the multiply-adds", "",
        f"Test loss (and score), mean and deviation of {asked.seeds} seeds, {asked.trials} candidates; see tasks.py.",
        "", f"| task | {' | '.join(POLICIES)} | |", f"|---|{'---|' * len(POLICIES)}---|",
    ]  # fmt: skip
    lines += [row(name, asked.seeds, asked.trials, asked.steps) for name in names]
    text = "\n".join(lines) + "\n"
    print(text)
    if asked.only is None and asked.steps == 1.0:
        write_text(HERE / "tasks.md", text)


if __name__ == "__main__":
    main()
