"""Which proxy ranks like the fine-tuned network? ResNet-20 on CIFAR-10-JPEG, candidates of one budget.

    python results/benchmarks/proxies.py --data ../shared/data [--budget 'macs<=50%'] [--candidates 40]
        [--only raw,proxy:1000,truth] [--shard 0/2] [--tabulate]

The candidates, one of each kind in turn: closed forms, the better half of a short evolution by "proxy", mutations of
both, and random ones; all projected on the budget. The truth is one epoch under the fixed protocol of
`protocol.py`, from the pruned weights, seed 0; what is compared with it is the accuracy on the 5,000 held
out images (test is measured as well, and kept for the record only). "adapted" is weight-sharing adaptation, once, then
batch-norm re-estimation of each candidate; "truth:reconstructed" is the same epoch from reconstructed weights. Any
fidelity of the evaluator may be named in --only.

Every measurement of a candidate is one file in cache/proxies/: a killed benchmark goes on, shards may run side by side
(shard 0 makes what they share), and --tabulate writes what there is.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import schedules
import torch
from protocol import CACHE, HERE, images, processor
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr

import autoprune
from autoprune.evaluation import EvaluationSettings, Evaluator, measure
from autoprune.files import write_text
from autoprune.ledger import Ledger
from autoprune.problem import Problem
from autoprune.recovery import adapt, finetune, images_seen
from autoprune.runs.directory import RunDirectory
from autoprune.strategies import warm_starts
from objectives import parse
from search_spaces import prune, trace
from search_spaces.models import resnet20

MEASURES = (
    "raw",
    "proxy:256",
    "proxy:1000",
    "proxy:4000",
    "reconstructed",
    "short:50",
    "short:200",
    "adapted",
    "truth",
)
WORDS = {
    "raw": "loss as cut, nothing done",
    "reconstructed": "least squares, then batch-norm",
    "adapted": "weight-sharing adaptation (once), then batch-norm",
    "truth:reconstructed": "least squares, then the epoch",
}
EPOCH = 351  # steps of 128 images
BATCH = 128


@dataclass
class Bench:
    """One budget: data, candidates and what measures them.

    Attributes:
        folder: Of the pieces.
        source: Of the data and the weights.
        budget: What all candidates keep to.
        steps: Longest training; EPOCH but for a smoke test.
        trials: Of the evolution.
        adaptation: Steps.
        first: Whether this process makes what the shards share.
    """

    folder: Path
    source: Path
    budget: str
    steps: int = EPOCH
    trials: int = 60
    adaptation: int = 300
    first: bool = True

    @cached_property
    def data(self) -> Any:
        return images(self.source)

    @cached_property
    def dense(self) -> torch.nn.Module:
        model = resnet20()
        model.load_state_dict(load_file(self.source / "resnet20_cifar10_jpeg.safetensors"))
        return model.eval()

    @cached_property
    def run(self) -> RunDirectory:
        """The evolution: its space, its scores, its budget."""
        path = self.shared("run", self.evolve)
        return RunDirectory.open(path)

    @cached_property
    def problem(self) -> Problem:
        space = trace(self.dense, self.data.example).with_limits(min_keep=self.run.config.min_keep)
        return Problem(space, (parse(self.budget),), self.run.scores())

    def shared(self, name: str, make: Callable[[Path], None]) -> Path:
        """Something that all shards need: made by the first one, awaited by the others."""
        path = self.folder / name
        while not self.first and not path.exists():
            print(f"waiting for shard 0 to make {path}", flush=True)
            time.sleep(15)
        if not path.exists():
            make(path)
        return path

    def evolve(self, path: Path) -> None:
        partial = path.with_name("run.partial")
        how = {"strategy": "evolution", "trials": self.trials, "finalists": 0, "epochs": 0, "name": str(partial),
               "fidelity": "proxy"}  # whatever the default is: the pools of all budgets compare  # fmt: skip
        if partial.exists():
            autoprune.resume(partial, model=self.dense, data=self.data)
        else:
            autoprune.search(self.dense, self.data, self.budget, **how)
        partial.rename(path)

    def candidates(self, count: int) -> list[dict[str, Any]]:
        """The first `count` candidates: {"kind", "widths"}; more of them leave the first ones as they are."""
        problem = self.problem
        ledger = {t.widths: t.loss for t in Ledger.read(self.run.path).trials if np.isfinite(t.loss)}
        evolved = sorted(ledger, key=ledger.__getitem__)
        evolved = evolved[: max(4, len(evolved) // 2)]
        closed = list(warm_starts(problem))
        found: dict[tuple[int, ...], str] = {}
        kinds = ("evolved", "mutated", "random", "closed")
        for number in range(100 * count):
            kind, rng = kinds[number % 4], np.random.default_rng([0, number])
            if kind == "closed" and closed:
                widths = closed.pop(0)
            elif kind == "evolved" and number < 4 * len(evolved):
                widths = evolved[number // 4 * 7 % len(evolved)] if number else evolved[0]
            elif kind == "random":
                widths = problem.project(problem.space.sample(rng))
            else:
                parent = np.array(evolved[int(rng.integers(len(evolved)))])
                moved = parent * np.exp(rng.choice([0.1, 0.3]) * rng.standard_normal(len(parent)))
                kind, widths = "mutated", problem.project(problem.space.clip(moved))
            found.setdefault(tuple(int(w) for w in widths), kind)
            if len(found) == count:
                break
        return [{"kind": kind, "widths": list(widths)} for widths, kind in found.items()]

    @cached_property
    def evaluator(self) -> Evaluator:
        return Evaluator(
            self.dense, self.data, self.problem.space, self.problem.scores, EvaluationSettings(abandon=False)
        )

    @cached_property
    def adapted(self) -> Evaluator:
        """The evaluator of the adapted weights."""
        model = resnet20()
        model.load_state_dict(load_file(self.shared("adapted.safetensors", self.adapt)))
        space, scores = self.problem.space, self.problem.scores
        return Evaluator(model, self.data, space, scores, EvaluationSettings(abandon=False))

    def adapt(self, path: Path) -> None:
        problem, start = self.problem, time.process_time()
        model = adapt(
            self.dense, self.data.without_test(), problem.space, problem.scores, steps=self.adaptation, seed=0,
            project=problem.project,
        )  # fmt: skip
        seconds = {"seconds": time.process_time() - start, "dense_val": measure(model, self.data, "val")}
        path.with_suffix(".json").write_text(json.dumps(seconds))
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path.with_suffix(".partial"))
        path.with_suffix(".partial").rename(path)

    def measure(self, widths: Sequence[int], what: str) -> dict[str, Any]:
        """One measurement of one candidate."""
        evaluator = self.adapted if what == "adapted" else self.evaluator  # made before the clock runs
        start = time.process_time()
        if what.startswith("truth"):
            found = self.truth(widths, reconstruct=what == "truth:reconstructed")
        elif what == "adapted":
            found = evaluator(widths, "proxy")
        else:
            kind, _, steps = what.partition(":")
            fidelity = f"short:{min(int(steps), self.steps)}" if kind == "short" and steps else what
            found = evaluator(widths, fidelity)
        seconds = time.process_time() - start  # one thread: what it takes on a quiet machine
        keep = {k: v for k, v in found.items() if k in ("loss", "top1", "test_loss", "test_top1")}
        return {**keep, "seconds": seconds, "widths": list(widths)}

    def truth(self, widths: Sequence[int], *, reconstruct: bool) -> dict[str, Any]:
        """One epoch of the fixed protocol, then the validation images; and test, once."""
        problem = self.problem
        kept = problem.space.kept(widths, problem.scores)
        model = prune(self.dense, problem.space, kept)
        if reconstruct:
            self.evaluator.reconstruction(EvaluationSettings().fit_images)(model.eval(), kept)
        how = {"learning_rate": 0.02, "schedule": "cosine", "batch": BATCH, "amp": "on"}
        finetune(model, self.data.without_test(), steps=self.steps, seed=0, **how)
        test = measure(model, self.data, "test")
        return {**measure(model, self.data, "val"), "test_loss": test["loss"], "test_top1": test["top1"]}

    def piece(self, number: int, what: str) -> Path:
        return self.folder / f"{number:03d}-{what.replace(':', '-')}.json"

    def read(self, number: int, what: str) -> dict[str, Any] | None:
        path = self.piece(number, what)
        return json.loads(path.read_text()) if path.is_file() else None


def correlation(proxy: Sequence[float], truth: Sequence[float]) -> str:
    """Spearman's, with the standard deviation over 200 bootstrap samples of the candidates."""
    x, y = np.array(proxy), np.array(truth)
    if len(x) < 4:
        return "–"
    rng = np.random.default_rng(0)
    picks = (rng.integers(len(x), size=len(x)) for _ in range(200))
    again = [spearmanr(x[p], y[p]).statistic for p in picks if len(set(x[p])) > 1 and len(set(y[p])) > 1]
    return f"{spearmanr(x, y).statistic:.2f} ± {np.nanstd(again):.2f}"


def table(bench: Bench, candidates: list[dict[str, Any]]) -> str:
    """The record, as Markdown."""
    truth = {n: t for n in range(len(candidates)) if (t := bench.read(n, "truth"))}
    best_half = sorted(truth, key=lambda n: -truth[n]["top1"])[: (len(truth) + 1) // 2]
    lines = [
        f"# Which proxy ranks like the fine-tuned network? ResNet-20, CIFAR-10-JPEG, {bench.budget}",
        "",
        f"Recorded by `{Path(__file__).name}` on {processor()}, {torch.get_num_threads()} thread(s), torch "
        f"{torch.__version__}, Python {platform.python_version()}. {len(truth)} candidates with a truth: top-1 on the "
        "5,000 held out images after one epoch of the fixed protocol. Spearman of each proxy's loss (2,000 of these "
        "images) with it, over all candidates and over the half that is best in truth, ± the standard deviation over "
        "200 bootstrap samples; and with the loss after that epoch. The last columns: top-1 after the epoch of the one "
        "candidate that the proxy likes best, and the mean of its best three.",
        "",
        "| proxy | what is done | candidates | seconds each | top-1: all | top-1: best half | loss: all | "
        "loss: best half | its best | its best three |",
        "|" + "---|" * 10,
    ]
    known = {p.stem[4:] for p in bench.folder.glob("[0-9][0-9][0-9]-*.json")}
    listed = [m.replace(":", "-") for m in MEASURES if m != "truth"]
    for name in [*(m for m in listed if m in known), *sorted(known - {*listed, "truth"})]:
        what = name.replace("-", ":")
        found = {n: p for n in truth if (p := bench.read(n, what))}
        if not found:
            continue
        cells = []
        for key, sign in (("top1", -1), ("loss", 1)):
            for numbers in (list(found), [n for n in best_half if n in found]):
                cells.append(correlation([found[n]["loss"] for n in numbers], [sign * truth[n][key] for n in numbers]))
        order = [100 * truth[n]["top1"] for n in sorted(found, key=lambda n: found[n]["loss"])]
        seconds = statistics.median(p["seconds"] for p in found.values())
        words = WORDS.get(what, "batch-norm" if what.startswith("proxy") else "trained, then batch-norm")
        lines.append(
            f"| {what} | {words} | {len(found)} | {seconds:.2f} | {' | '.join(cells)} | {order[0]:.2f} | "
            f"{statistics.mean(order[:3]):.2f} |"
        )
    if truth:
        tops = [100 * t["top1"] for t in truth.values()]
        mean = statistics.mean(t["seconds"] for t in truth.values())
        lines += ["", f"The truth itself: {min(tops):.2f} to {max(tops):.2f} %, mean {statistics.mean(tops):.2f} %; "
                      f"{mean:.0f} s each. The best three: {statistics.mean(sorted(tops)[-3:]):.2f} %."]  # fmt: skip
    if other := {n: p for n in truth if (p := bench.read(n, "truth:reconstructed"))}:
        gain = [100 * (other[n]["top1"] - truth[n]["top1"]) for n in other]
        lines.append(f"The same epoch from reconstructed weights: {statistics.mean(gain):+.2f} points of top-1 on the "
                     f"held out images, mean of {len(gain)}, from {min(gain):+.2f} to {max(gain):+.2f}.")  # fmt: skip
    if (adapted := bench.folder / "adapted.json").is_file():
        once = json.loads(adapted.read_text())
        lines.append(f"Adaptation, once for all candidates: {bench.adaptation} steps, {once['seconds']:.0f} s, "
                     f"{images_seen(bench.adaptation, BATCH):,} training images (an epoch has {EPOCH * BATCH:,}); "
                     f"the dense network then has {100 * once['dense_val']['top1']:.2f} % held out.")  # fmt: skip
    kinds = "; ".join(
        f"{kind} {statistics.mean(v):.2f} % ({len(v)})"
        for kind in ("closed", "evolved", "mutated", "random")
        if (v := [100 * t["top1"] for n, t in truth.items() if candidates[n]["kind"] == kind])
    )
    measured = {
        what: {n: p for n in truth if (p := bench.read(n, what))}
        for what in MEASURES
        if what not in ("adapted", "truth")
    }
    replays = schedules.table(measured, {n: 100 * t["top1"] for n, t in truth.items()})
    return "\n".join([*lines, "", f"Mean truth by kind of candidate: {kinds}.", "", *replays])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10_jpeg.tar.xz and the weights")
    parser.add_argument("--budget", default="macs<=50%")
    parser.add_argument("--candidates", type=int, default=40)
    parser.add_argument("--only", default=",".join(MEASURES), help="measurements, in this order")
    parser.add_argument("--shard", default="0/1", help="I/N: only candidates whose number is I modulo N")
    parser.add_argument("--tabulate", action="store_true", help="only what the cache holds")
    parser.add_argument("--smoke", action="store_true", help=argparse.SUPPRESS)  # 3 steps of everything, to try it
    args = parser.parse_args()
    if not args.data.is_dir():
        raise SystemExit(f"skipped: no benchmark data in {args.data} (see the data's README)")
    torch.set_num_threads(1)
    shard, shards = (int(part) for part in args.shard.split("/"))
    slug = "-".join(re.findall("[A-Za-z0-9]+", args.budget))
    folder = CACHE / ("proxies-smoke" if args.smoke else "proxies") / slug
    folder.mkdir(parents=True, exist_ok=True)
    short = {"steps": 3, "trials": 4, "adaptation": 3} if args.smoke else {}
    bench = Bench(folder, args.data, args.budget, first=shard == 0, **short)
    listing = folder / "candidates.json"
    if not args.tabulate:
        found = bench.candidates(args.candidates)
        if shard == 0:
            listing.write_text(json.dumps(found))
        for what in args.only.split(","):
            for number in range(shard, args.candidates, shards):
                known = bench.read(number, what)
                if known is None or known["widths"] != found[number]["widths"]:
                    result = bench.measure(found[number]["widths"], what)
                    write_text(bench.piece(number, what), json.dumps(result))
                    print(f"{what} of {number} ({found[number]['kind']}): loss {result['loss']:.4f}, top-1 "
                          f"{result['top1']:.4f}, {result['seconds']:.1f} s", flush=True)  # fmt: skip
    if listing.is_file():
        text = table(bench, json.loads(listing.read_text()))
        name = "proxies.md" if args.budget == "macs<=50%" else f"proxies-{slug}.md"
        (folder if args.smoke else HERE).joinpath(name).write_text(text)
        print(text)


if __name__ == "__main__":
    main()
