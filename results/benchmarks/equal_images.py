"""Equal training images: what adaptation and short fine-tunes spend is taken off the final epoch. ResNet-20 / CIFAR-10.

    python results/benchmarks/equal_images.py --data ../shared/data [--only proxy adapted] [--budgets 50% 15%]
        [--seeds 0 1 2] [--shard 0/2] [--tabulate]

Every variant trains on 351 batches of 128 images in all, in the search, the adaptation and the final training together;
the final training is that of protocol.py with the steps that are left. Seed s draws the search, the adaptation and the
final training. A search and a final training are one piece each in cache/equal/: a killed benchmark goes on, several
processes may run side by side (each job is claimed by a lock that dies with its process), and --tabulate writes
equal_images.md from what there is.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from adapted import Adapted, adapted
from protocol import (
    BATCH,
    CACHE,
    EPOCH,
    HERE,
    WEIGHTS,
    claim,
    dense_network,
    images,
    machine,
    macs,
    one_epoch,
    piece,
    spread,
)

import autoprune
from autoprune.data import ImageData
from autoprune.errors import RunIsLive
from autoprune.files import write_text
from autoprune.ledger import Ledger
from autoprune.runs.directory import RunDirectory
from autoprune.training.methods.sandwich import images_seen

BUDGETS = ("50%", "15%")
SEEDS = (0, 1, 2)
ALLOWED = 99  # evaluations
CONCLUSION = """
**Adaptation does not win.** At 15 % (three seeds) candidates are 3.4 points better before any training (60.0 against
56.6), and after the final steps, which are 100 fewer, level: 72.4 ± 0.7 and 72.4 ± 0.8. At 50 % (one seed) it loses
before and after (79.5 and 84.0, against 82.5 and 84.9): the adapted dense network itself is a point worse than the
trained one. In seconds it is dear: 100 steps of adaptation take 84 to 92 s, 100 steps of the final training 13 to 30 s.
So it is no part of the default; `autoprune train --method sandwich` does it for whoever wants it.

- Reconstruction needs no labels and no training, and is worth more than anything that trains: at 15 % 72.4 ± 0.8 with
  it, 65.2 to 67.5 without (one seed). The candidates that it likes must then also begin there: trained from pruned
  weights the same widths end at 61.1.
- Adaptation makes scoring by batch-norm more truthful at 15 % (67.5 against 65.2, one seed), not enough.
- An adapted network's channels must stay in the order that they were adapted in: scored anew 71.8 instead of 73.1 (one
  seed).
- Three finalists of 30 steps cost more in the end than they choose better: 71.1 instead of 71.6 at 15 % (one seed).
- At 50 % everything but adaptation is level (84.8 to 84.9), the closed form without any search included.

Not run: adaptation scored by batch-norm, finalists and pruned weights at 50 %; more than one seed where none is given.
"""  # what a fair reader concludes, kept by hand


@dataclass(frozen=True)
class Variant:
    """One way to spend the epoch's images.

    Attributes:
        title: For the table.
        settings: Of `autoprune.search`, on top of `defaults`.
        adaptation: Steps of weight-sharing adaptation before the search.
        epoch: Steps in all, that adaptation, short fine-tunes and final training share.
        scored_anew: Whether the adapted network's channels are scored again, instead of kept in the adaptation's order.
    """

    title: str
    settings: dict[str, Any] = field(default_factory=dict)
    adaptation: int = 0
    epoch: int = EPOCH
    scored_anew: bool = False

    @property
    def how(self) -> dict[str, Any]:
        """All that the search is told."""
        order = {"criterion": "adapted:AdaptedOrder"} if self.adaptation and not self.scored_anew else {}
        defaults = {"strategy": "evolution", "trials": ALLOWED, "finalists": 0, "reconstruct": False}
        return {**defaults, **order, **self.settings}

    @property
    def final(self) -> int:
        """Steps that are left for the final training."""
        return self.epoch - self.adaptation - self.how["finalists"] * self.how.get("short_steps", 0)


FITTED = {"fidelity": "reconstructed", "reconstruct": True}
SHORT = {**FITTED, "trials": ALLOWED - 3, "finalists": 3, "short_steps": 30}
VARIANTS = {
    "knapsack": Variant(
        "closed form (knapsack), no search", {"strategy": "knapsack", "fidelity": "proxy", "trials": 1}
    ),
    "proxy": Variant("evolution by batch-norm", {"fidelity": "proxy"}),
    "reconstructed": Variant("evolution by reconstruction, pruned weights", {"fidelity": "reconstructed"}),
    "reconstructed-start": Variant("evolution by reconstruction, reconstructed weights", FITTED),
    "adapted": Variant("adapted, evolution by batch-norm, adapted weights", {"fidelity": "proxy"}, 100),
    "adapted-reconstructed": Variant("adapted, evolution by reconstruction, reconstructed weights", FITTED, 100),
    "adapted-scored-anew": Variant(
        "adapted, scored anew, evolution by reconstruction, reconstructed weights", FITTED, 100, scored_anew=True
    ),
    "short": Variant("evolution by reconstruction, 3 finalists of 30 steps, reconstructed weights", SHORT),
}
HEAD = f"""# Equal training images: what a truthful proxy costs, taken off the final epoch

Made by `equal_images.py`: ResNet-20 / CIFAR-10-JPEG. Machines: {{machines}}.

Each variant trains on {{epoch}} batches of {BATCH} images in all: a step of adaptation or of a finalist's short
fine-tune is one step less in the end. At most {ALLOWED} evaluations. Seed s draws the search, the adaptation and the
final training (protocol.py with the steps that are left, from the weights named). *Untrained*: test top-1 of the winner
as the search leaves it, batch-norm re-estimated. *Test*: top-1 after the final steps, mean ± standard deviation over
seeds.

Counted are images that weights are trained on, as often as they are drawn. Not counted, since nothing is trained on
them: 2,048 images with labels that score the channels (all variants; once, on the dense network), 1,000 images without
labels that re-estimate batch-norm of each candidate, and 500 images without labels on which layers are fitted to the
dense network's outputs (all variants "by reconstruction"). An image of the adaptation is counted once, but passes
through four networks, forwards and backwards: the dense one, the smallest and two random ones, of which one keeps to
the budget. Adapted candidates keep their channels in the order that the adaptation trained them in (or, *scored anew*,
in that of the adapted network's own scores), and reconstruction then fits them to the adapted dense network.
Finalists' short fine-tunes start from reconstructed layers and are thrown away. Seconds are wall time on a machine
that does other work, for a resumed search those of its last part.
"""


def stem_of(job: tuple[str, str, int]) -> str:
    """Of the files of a job: variant, budget, seed."""
    return f"{job[0]}-{job[1]}-s{job[2]}"


@dataclass(frozen=True)
class Bench:
    """Where it runs.

    Attributes:
        source: Folder of the data and the weights.
        folder: Of the pieces, within the cache.
        variants: By name.
    """

    source: Path | None
    folder: str = "equal"
    variants: dict[str, Variant] = field(default_factory=lambda: VARIANTS)

    @functools.cached_property
    def data(self) -> ImageData:
        return images(self.source)

    @property
    def weights(self) -> Path:
        return self.source / WEIGHTS

    def run(self, name: str, budget: str, seed: int) -> dict[str, Any] | None:
        """Both pieces of a job, run if they have to be; None if another process is at it."""
        stem, variant = stem_of((name, budget, seed)), self.variants[name]
        with claim(CACHE / self.folder / f"{stem}.lock") as mine:
            if not mine:
                return None
            base = functools.cache(lambda: self.base(variant, budget, seed))
            path = CACHE / self.folder / f"run-{stem}"
            try:
                made = piece(f"{self.folder}/{stem}", lambda: self.search(name, budget, seed, base(), path))
            except RunIsLive:
                return None

            def train() -> dict[str, Any]:
                start = autoprune.load(path / "best", base().model)
                how = {"steps": variant.final, "start": start}
                return {**one_epoch(self.data, self.weights, made["kept"], seed, **how), "steps": variant.final}

            return {**made, "final": piece(f"{self.folder}/{stem}-final", train)}

    def base(self, variant: Variant, budget: str, seed: int) -> Adapted:
        """What is pruned: the dense network, adapted if the variant says so."""
        if not variant.adaptation:
            return Adapted(dense_network(self.weights), seconds=0.0, val=0.0)
        return adapted(self.folder, self.weights, self.data, budget, seed, variant.adaptation)

    def search(self, name: str, budget: str, seed: int, base: Adapted, path: Path) -> dict[str, Any]:
        """The piece of a search."""
        variant, begin = self.variants[name], time.perf_counter()
        if path.is_dir():
            result = autoprune.resume(path, model=base.model, data=self.data)
        else:
            how = {"seed": seed, "epochs": 0, "name": str(path), **variant.how}
            result = autoprune.search(base.model, self.data, f"macs<={budget}", **how)
        trials = [t for t in Ledger.read(path).trials if not t.metrics.get("cached")]
        kept = result.space.kept(result.widths, RunDirectory.open(path).scores())
        short = sum(t.fidelity == "short" for t in trials) * variant.how.get("short_steps", 0)
        return {
            "variant": name,
            "budget": budget,
            "seed": seed,
            "settings": variant.how,
            "widths": list(result.widths),
            "kept": [k.tolist() for k in kept],
            "evaluations": len(trials),
            "val_loss": result.trial.loss,
            "untrained": 100 * result.metrics["pruned_test"]["top1"],
            "macs": macs(result.model) / macs(base.model),
            "images_search": images_seen(short, BATCH),
            "images_adaptation": images_seen(variant.adaptation, BATCH),
            "adapted_val": base.val,
            "seconds_adaptation": base.seconds,
            "seconds_search": time.perf_counter() - begin,
            "machine": machine(),
        }

    def found(self) -> Iterator[dict[str, Any]]:
        """All finished jobs in the cache, seed by seed."""
        for path in sorted((CACHE / self.folder).glob("*-final.json")):
            made = path.with_name(path.name.replace("-final", ""))
            yield {**json.loads(made.read_text()), "final": json.loads(path.read_text())}

    def tabulate(self) -> str:
        """Write the table."""
        rows = list(self.found())
        epoch = max(v.epoch for v in self.variants.values())
        machines = "; ".join(dict.fromkeys(r["machine"] for r in rows)) or "none yet"
        lines = [HEAD.format(machines=machines, epoch=epoch), "## What a fair reader concludes", "", CONCLUSION.strip()]
        for budget in sorted({r["budget"] for r in rows}, key=lambda b: -float(b.rstrip("%"))):
            lines += ["", f"## macs<={budget}", "", *table([r for r in rows if r["budget"] == budget], self.variants)]
        text = "\n".join(lines) + "\n"
        write_text(HERE / "equal_images.md" if self.folder == "equal" else CACHE / self.folder / "table.md", text)
        return text


def table(rows: Sequence[dict[str, Any]], variants: dict[str, Variant]) -> list[str]:
    """The table of one budget, in the order of the variants."""
    lines = [
        "| | evaluations | MACs kept | training images: search | adaptation | final | untrained | test | n | each run "
        "| validation | adaptation s | search s | final s |",
        "|" + "---|" * 14,
    ]
    for name, variant in variants.items():
        runs = [r for r in rows if r["variant"] == name]
        if not runs:
            continue
        tops = [r["final"]["test"] for r in runs]
        cells = [
            variant.title,
            distinct(runs, lambda r: f"{r['evaluations']}"),
            distinct(runs, lambda r: f"{100 * r['macs']:.1f} %"),
            distinct(runs, lambda r: f"{r['images_search']:,}"),
            distinct(runs, lambda r: f"{r['images_adaptation']:,}"),
            distinct(runs, lambda r: f"{images_seen(r['final']['steps'], BATCH):,}"),
            mean(runs, lambda r: r["untrained"]),
            spread(tops),
            f"{len(runs)}",
            ", ".join(f"{top:.2f}" for top in tops),
            mean(runs, lambda r: r["final"]["val"]),
            mean(runs, lambda r: r["seconds_adaptation"], 0),
            mean(runs, lambda r: r["seconds_search"], 0),
            mean(runs, lambda r: r["final"]["seconds"], 0),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if after := [r for r in rows if r["images_adaptation"]]:
        lines += ["", f"The adapted dense network: {mean(after, lambda r: r['adapted_val'])} % held out."]
    return lines


def distinct(rows: Sequence[dict[str, Any]], say: Callable[[dict[str, Any]], str]) -> str:
    """What the runs say, each thing once."""
    return ", ".join(dict.fromkeys(map(say, rows)))


def mean(rows: Sequence[dict[str, Any]], value: Callable[[dict[str, Any]], float], digits: int = 2) -> str:
    """Over the runs."""
    return f"{statistics.mean(map(value, rows)):.{digits}f}"


def tiny(variant: Variant) -> Variant:
    """The same with next to no work, to try it."""
    settings = {**variant.settings, "trials": min(variant.how["trials"], 4), "val_samples": 100, "score_samples": 128}
    settings |= {"short_steps": 2} if variant.how["finalists"] else {}
    return replace(variant, settings=settings, adaptation=min(variant.adaptation, 3), epoch=12)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with cifar10_jpeg.tar.xz and the weights")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="VARIANT",
                        help=f"of {', '.join(VARIANTS)}")  # fmt: skip
    parser.add_argument("--budgets", nargs="+", default=BUDGETS, help="MACs that may be kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--shard", default="0/1", help="I/N: only jobs whose number is I modulo N")
    parser.add_argument("--tabulate", action="store_true", help="run nothing, only write the table")
    parser.add_argument("--smoke", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    bench = Bench(args.data)
    if args.smoke:
        bench = Bench(args.data, "equal-smoke", {name: tiny(v) for name, v in VARIANTS.items()})
    if not args.tabulate:
        if args.data is None or not args.data.is_dir():
            raise SystemExit(f"skipped: no benchmark data in {args.data} (see the data's README)")
        shard, shards = (int(part) for part in args.shard.split("/"))
        jobs = [(name, b, s) for s in args.seeds for b in args.budgets for name in args.only]
        for job in jobs[shard::shards]:
            begin, row = time.perf_counter(), bench.run(*job)
            said = "in other hands" if row is None else f"top-1 {row['untrained']:.2f}, {row['final']['test']:.2f}"
            seconds = time.perf_counter() - begin
            print(f"{time.strftime('%H:%M:%S')} {stem_of(job)}: {said} ({seconds:.0f} s)", flush=True)
    print(bench.tabulate())


if __name__ == "__main__":
    main()
