"""One search of the whole front against as many evaluations spent otherwise; writes front.md beside this file.

    python results/benchmarks/front.py [--evaluations 60] [--seeds 0 1 2]

The digits, a small CNN, the loss against MACs. The same number of evaluations (layers reconstructed, no training) goes
into one run of `--front macs`, into separate searches at several budgets with the default strategy, or into random
widths at random budgets.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from protocol import processor, spread

import autoprune
from autoprune.data import ImageData, load
from autoprune.problem import Trial
from autoprune.runs import RunDirectory
from autoprune.schedule import is_cached, ranked
from autoprune.strategies import NSGA2
from autoprune.tradeoff import TradeOff
from autoprune.training import TrainingSettings, finetune
from objectives import hypervolume
from search_spaces.encodings import Floats
from search_spaces.models import digits_cnn

BUDGETS = (10, 20, 35, 50, 75)  # % of the MACs that the separate searches are told,
BETWEEN = (15, 27, 42, 60)  # and those that nobody was told
ONE = {"front": "macs"}
POLICIES: dict[str, dict[str, Any]] = {
    "one run, `--front macs`": ONE,
    "one run, `--encoding compensation`": {**ONE, "encoding": "compensation"},
    "five runs, one per budget": {},
    "random widths at random budgets": {**ONE, "strategy": "front:RandomFront", "warm_starts": "none"},
}


class RandomFront(NSGA2):
    """Random legal widths, projected on a random budget."""

    name = "random_front"

    def parents(self, rng: np.random.Generator) -> tuple[Trial, ...]:
        """None."""
        return ()

    def child(self, parents: Sequence[Trial], rng: np.random.Generator) -> Floats:
        """Anywhere."""
        return self.encoding.encode(self.problem.space.sample(rng))


def network(data: ImageData) -> torch.nn.Module:
    """The dense network."""
    torch.manual_seed(0)
    model = digits_cnn()
    finetune(model, data.without_test(), TrainingSettings(epochs=12, batch_size=64, lr=0.05, device="cpu"))
    return model.eval()


def candidates(
    how: dict[str, Any], model: torch.nn.Module, data: ImageData, seed: int, evaluations: int, folder: Path
) -> tuple[TradeOff | None, list[Trial]]:
    """What a policy evaluated, in order, and the trade-off that measures it (of the runs that have one)."""
    shared: dict[str, Any] = {"seed": seed, "finalists": 0, "epochs": 0.0, "device": "cpu", "reconstruct": True}
    settings = [how] if how else [{"budget": f"macs<={share}%"} for share in BUDGETS]
    trials: list[Trial] = []
    tradeoff = None
    for n, each in enumerate(settings):
        name = str(folder / f"run-{n}")
        autoprune.search(model, data, **shared, **each, trials=evaluations // len(settings), name=name)
        run = RunDirectory.open(name)
        record = run.record()
        trials += [t for t in record.trials if not is_cached(t)]
        tradeoff = run.tradeoff(record)
    return tradeoff, trials


def above_least(tradeoff: TradeOff, trials: Sequence[Trial]) -> float:
    """The hypervolume without what lies below the smallest budget that the separate searches are told."""
    points = np.array([tradeoff.point(t) for t in ranked(trials)])
    return hypervolume(np.maximum(points, (0.0, BUDGETS[0] / 100)), tradeoff.corner)


def losses(tradeoff: TradeOff, trials: Sequence[Trial], shares: Sequence[int]) -> list[float]:
    """The best loss within each share of the dense network's MACs."""
    held = [[t.loss for t in ranked(trials) if 100 * tradeoff.shares(t.widths)[0] <= s + 1e-6] for s in shares]
    return [min(found, default=tradeoff.worst) for found in held]


def search_all(evaluations: int, seeds: Sequence[int]) -> Iterator[str]:
    """The report after each seed."""
    torch.set_num_threads(1)
    data, started = load("digits"), time.process_time()
    model = network(data)
    found: dict[str, list[list[Trial]]] = {}
    measure: TradeOff | None = None
    for done, seed in enumerate(seeds, start=1):
        for name, how in POLICIES.items():
            with tempfile.TemporaryDirectory() as folder:
                tradeoff, trials = candidates(how, model, data, seed, evaluations, Path(folder))
            measure = measure or tradeoff
            found.setdefault(name, []).append(trials)
            print(name, seed, len(trials), flush=True)
        assert measure is not None
        about = (
            f"Digits, `digits_cnn` (dense: {model_says(model, data)}), loss against MACs, {evaluations} evaluations "
            f"each (reconstructed, not trained), seeds {', '.join(map(str, seeds[:done]))}: mean ± standard deviation. "
            f"{time.process_time() - started:.0f} s of one core, {processor()}; Python {platform.python_version()}, "
            f"torch {torch.__version__}.\n"
        )
        yield report(about, found, measure, evaluations)


def report(about: str, found: Mapping[str, Sequence[Sequence[Trial]]], measure: TradeOff, evaluations: int) -> str:
    """The tables, in Markdown."""
    half = evaluations // 2
    lines = [
        "# One search of the front against as many evaluations spent otherwise\n",
        about,
        f"Hypervolume: the share of the box below the dense network's MACs and the loss {measure.worst:.4f} (a network "
        "that answers all images alike) that the candidates dominate; higher is better.\n",
        f"| policy | hypervolume after {half} | after {evaluations} | of it above {BUDGETS[0]} % of the MACs | "
        "candidates on the front |",
        "|---|---|---|---|---|",
    ]
    for name, runs in found.items():
        volumes = [measure.volumes(trials) for trials in runs]
        above = spread4([above_least(measure, trials) for trials in runs])
        sizes = statistics.mean(len(measure.front(trials)) for trials in runs)
        middle = "" if not POLICIES[name] else spread4([v[half - 1] for v in volumes])
        lines.append(f"| {name} | {middle} | {spread4([v[-1] for v in volumes])} | {above} | {sizes:.0f} |")
    for title, shares in (("that the separate searches were told", BUDGETS), ("in between, told to nobody", BETWEEN)):
        lines += [f"\nBest loss within budgets {title}:\n", f"| policy | {' | '.join(f'{s} %' for s in shares)} |"]
        lines.append("|---" * (1 + len(shares)) + "|")
        for name, runs in found.items():
            table = np.array([losses(measure, trials, shares) for trials in runs])
            lines.append(f"| {name} | {' | '.join(spread4(list(column), 3) for column in table.T)} |")
    return "\n".join([*lines, ""])


def spread4(values: Sequence[float], digits: int = 4) -> str:
    """Mean and standard deviation, with more digits than percentages have."""
    if len(values) < 2:
        return spread(values)
    return f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def model_says(model: torch.nn.Module, data: ImageData) -> str:
    """Loss and top-1 of the dense network on the validation images."""
    from autoprune.evaluation import measure

    said = measure(model, data, "val", device="cpu")
    return f"loss {said['loss']:.4f}, top-1 {said['top1']:.4f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evaluations", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    for text in search_all(args.evaluations, args.seeds):
        Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
        print(text, flush=True)
