"""Methods that prune while they train, each over a whole recovery: the same epochs in all, from the same weights.

    python results/benchmarks/methods.py --data DATA [--network resnet20] [--budget 15%] [--epochs 10] [--seeds 0]
        [--methods "cut;uniform;greg1;slimming;slimming strength=0.01"] [--minutes 60]
    python results/benchmarks/methods.py --data DATA --tabulate

*cut* is a search of one candidate, the widths of a closed form (`equal_loss`, scored in rounds): the units go at
once, and all epochs come after. *uniform*: the same with widths in one proportion and units by L1 norms. *dense*: the
whole network, trained on. A method that is given the units (greg1, tpp ...) gets those of *cut* and has half of the
epochs to drive the others out, at a constant rate; one that finds them (slimming, chex ...) has half of the epochs to
do so. Else every part begins at a rate of .02 and ends at 0 by a cosine; SGD with Nesterov momentum .9, batch 128, no
distillation, no reconstruction, settings of the methods as they come, but for those that a row names ("slimming
strength=0.01"); "iss of search combined s0" is given the units that this search of quality.py has found. A run delivers
what validates best of the network before and after its last part, on the 5,000 images of the last column; *dense*,
*iss of ...* and the rows *by quality.py* (networks that were found there, trained by the same protocol for as many
epochs; their minutes without the search) are measured after the last step.

A piece is claimed by a lock that dies with its process and is kept in cache/methods/; a run that was killed is resumed.
--tabulate writes methods.md.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import quality_tables
import torch
from protocol import CACHE, NETWORKS, claim, processor, spread
from quality import EPOCH, PLAIN, Bench
from quality import PIECES as OF_QUALITY
from quality_pieces import by_training, read

import autoprune
from autoprune.compute import Compute
from autoprune.evaluation import measure
from autoprune.files import write_text
from autoprune.training import Checkpoints, Pruning, TrainingSettings, finetune
from autoprune.training.methods import make
from search_spaces import prune

PIECES = CACHE / "methods"
TABLE = Path(__file__).parent / "methods.md"
CONCLUDED = "## What a fair reader concludes"  # written by hand
CUT, UNIFORM, DENSE = "cut", "uniform", "dense"
OF = " of "  # between a method and the network that it is given
GIVEN = ("greg1", "tpp", "sfp", "asfp", "srfp", "asrfp", "iss", "orthoreg")
FINDING = (
    "slimming", "polarization", "greg2", "increg", "chex", "mest", "gap", "morphnet", "reweighted", "threshold",
    "gates", "fisher", "gdp", "imp",
)  # fmt: skip
CLOSED: dict[str, Any] = {"strategy": "equal_loss", "trials": 1, "finalists": 0}


class Grid(Bench):
    """One network at one budget, by every method."""

    def file(self, name: str, epochs: int, seed: int) -> Path:
        """Of a piece."""
        return PIECES / self.network / self.budget.rstrip("%") / f"{name}--{epochs}--s{seed}.json"

    def make(self, name: str, epochs: int, seed: int) -> dict[str, Any]:  # type: ignore[override]
        """Prune and train, or go on with it; what was delivered."""
        begun, used = time.perf_counter(), time.process_time()
        at_once = not any(self.file(name, epochs, seed).with_suffix(kind).exists() for kind in ("", ".pt", ".1.pt"))
        if name == DENSE:
            found = self.trained_on(self.file(name, epochs, seed).with_suffix(".pt"), epochs, seed)
        elif OF in name:
            found = self.driven_out(name, epochs, seed)
        else:
            found = self.delivered(name, epochs, seed)
        return {
            **found, "amp": Compute.choose("auto").amp, "machine": processor(), "torch": torch.__version__,
            "wall_s": time.perf_counter() - begun, "compute_s": time.process_time() - used, "at_once": at_once,
        }  # fmt: skip

    def delivered(self, name: str, epochs: int, seed: int) -> dict[str, Any]:
        """What a run delivers."""
        run = self.file(name, epochs, seed).with_suffix("")
        if (run / "config.toml").is_file():
            result = autoprune.resume(run, model=self.dense, data=self.data)
        else:
            how = {**PLAIN, "reconstruct": False, "seed": seed, "name": str(run), "epochs": epochs}
            verb = autoprune.train if name.split()[0] in FINDING else autoprune.search
            result = verb(self.dense, self.data, f"macs<={self.budget}", **{**how, **settings(name, epochs)})
        share = result.costs["macs"]["pruned"] / result.costs["macs"]["dense"]
        told = {kind: result.metrics[f"pruned_{split}"]["top1"] for kind, split in (("top1", "test"), ("val", "val"))}
        return {"widths": list(result.widths), "share": share, **told}

    def driven_out(self, name: str, epochs: int, seed: int) -> dict[str, Any]:
        """As `--recovery` does it, with the units that a search has found: half of the epochs at a constant rate."""
        method, allocation = name.split(OF, 1)
        if allocation not in self.allocations:
            self.search(allocation)
        kept, problem = self.kept(allocation), self.problem("group_fisher")
        steps, how = EPOCH * epochs // 2, TrainingSettings(**PLAIN, seed=seed)
        parts = [self.file(name, epochs, seed).with_suffix(f".{number}.pt") for number in (1, 2)]
        first, last = (Checkpoints(path, 100, strict=False) for path in parts)
        acting = make(method, Pruning(problem.space, problem.scores, kept=kept, project=problem.project))
        net, data = copy.deepcopy(self.dense), self.data.without_test()
        finetune(net, data, replace(how, lr_schedule="constant"), steps=steps, method=acting, checkpoints=first)
        space = problem.space.with_limits(depth=True)
        kept = acting.kept() or kept
        model = prune(net, space, kept)
        finetune(model, data, how, steps=EPOCH * epochs - steps, checkpoints=last)
        for path in parts:
            path.unlink(missing_ok=True)
        widths = [len(units) for units in kept]
        price = self.bare.feasibility.price
        share = price(widths)["macs"] / price(space.full)["macs"]
        scores = {key: measure(model, self.data, split)["top1"] for key, split in (("top1", "test"), ("val", "val"))}
        return {"widths": widths, "share": share, **scores}

    def trained_on(self, checkpoint: Path, epochs: int, seed: int) -> dict[str, Any]:
        """The dense network after as many epochs more."""
        model, how = copy.deepcopy(self.dense), TrainingSettings(**PLAIN, seed=seed)
        kept = Checkpoints(checkpoint, 100, strict=False)
        finetune(model, self.data.without_test(), how, steps=EPOCH * epochs, checkpoints=kept)
        checkpoint.unlink(missing_ok=True)
        return {"widths": list(self.bare.space.full), "share": 1.0, "top1": measure(model, self.data, "test")["top1"]}


def settings(name: str, epochs: int) -> dict[str, Any]:
    """What a row has of its own.

    Raises:
        ValueError: If it gives settings to what has none here.
    """
    name, *pairs = name.split()
    if name in FINDING:
        own = {key: int(value) if value.isdecimal() else float(value) for key, value in (p.split("=") for p in pairs)}
        return {"method": name, "method_args": own, "method_epochs": epochs / 2, "epochs": epochs / 2}
    if pairs:
        raise ValueError(f"row '{name}' takes no settings: {' '.join(pairs)}")
    if name == UNIFORM:
        return {**CLOSED, "strategy": "uniform", "criterion": "magnitude"}
    return {**CLOSED, "recovery": name}


def work(bench: Grid, names: Sequence[str], epochs: int, seeds: Sequence[int], until: float) -> None:
    """Make what is missing, until the time is up."""
    for seed in seeds:
        for name in names:
            path = bench.file(name, epochs, seed)
            with claim(path.with_suffix(".lock")) as mine:
                if time.monotonic() > until:
                    return
                if not mine or path.is_file():
                    continue
                try:
                    found = bench.make(name, epochs, seed)
                except ValueError as error:
                    if path.with_suffix("").is_dir():  # a fault of a run that had begun
                        raise
                    found = {"error": str(error)}
                write_text(path, json.dumps(found))
                told = found.get("error") or f"{100 * found['top1']:.2f}, {found['compute_s']:.0f} s"
                print(f"{bench.network} {bench.budget} {name} s{seed}: {told}", flush=True)


def table(pieces: Path, of_quality: Path, concluded: str) -> str:
    """methods.md, from all pieces that are there."""
    lines, machines = [], set[str]()
    for folder in sorted(p for p in pieces.glob("*/*") if p.is_dir()):
        by_epochs: dict[int, dict[str, list[dict[str, Any]]]] = {}
        for path in sorted(folder.glob("*.json")):
            name, epochs, _ = path.stem.split("--")
            by_epochs.setdefault(int(epochs), {}).setdefault(name, []).append(json.loads(path.read_text()))
        for epochs, found in by_epochs.items():
            found |= beside(of_quality / folder.parent.name / folder.name, epochs)
            machines |= {f"{p['machine']}, torch {p['torch']}" for of in found.values() for p in of if "machine" in p}
            lines += ["", f"## {folder.parent.name} at {folder.name}% of the MACs, {epochs} epochs", "", *rows(found)]
    where = f"Machines: {'; '.join(sorted(machines)) or 'none yet'}, one thread; bf16 but where f32 is said."
    head = ["# Methods that prune while they train", "", __doc__.split("\n\n", 2)[2].strip(), "", where, "", concluded]
    return "\n".join([*head, *lines, ""])


def beside(folder: Path, epochs: int) -> dict[str, list[dict[str, Any]]]:
    """Networks that quality.py has trained for as long."""
    trained = by_training(read(folder)).get(f"train:{EPOCH * epochs}", {})
    return {f"{name} (by quality.py)": [{**p, "top1": p["test_top1"]} for p in of] for name, of in trained.items()}


def rows(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """The best first; what was refused last."""
    lines = ["| method | top-1 on test, % | seeds | MACs, % | processor min | widths | on validation, % |"]
    lines.append("|---" * 7 + "|")
    good = {name: [p for p in of if "top1" in p] for name, of in found.items()}
    for name, of in sorted(good.items(), key=lambda item: -statistics.mean([p["top1"] for p in item[1]] or [0])):
        if not of:
            lines.append(f"| {name} | refused: {found[name][0]['error']} | | | | | |")
            continue
        share = f"{100 * statistics.mean(p['share'] for p in of):.1f}" if "share" in of[0] else ""
        whole = [p["compute_s"] / 60 for p in of if p.get("at_once", True)]  # else only its last process is known
        minutes = f"{statistics.mean(whole):.0f}" if whole else ""
        all_widths = {" ".join(map(str, p["widths"])) for p in of}
        widths = all_widths.pop() if len(all_widths) == 1 else "of each seed its own"
        top1 = spread([100 * p["top1"] for p in of]) + quality_tables.precision(of)
        val = spread([100 * p["val"] for p in of]) if all("val" in p for p in of) else ""
        lines.append(f"| {name} | {top1} | {len(of)} | {share} | {minutes} | {widths} | {val} |")
    return lines


def main() -> None:
    """Read the command line and work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10_jpeg.tar.xz and the weights")
    parser.add_argument("--network", default="resnet20", choices=list(NETWORKS))
    parser.add_argument("--budget", default="15%")
    parser.add_argument("--epochs", type=int, default=10, help="of each row, in all")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--methods", default=";".join((CUT, UNIFORM, DENSE, *GIVEN, *FINDING)))
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no piece after so long")
    parser.add_argument("--tabulate", action="store_true", help="only write the table of what is there")
    args = parser.parse_args()
    if args.tabulate:
        before = TABLE.read_text() if TABLE.is_file() else ""
        concluded = CONCLUDED + before.partition(CONCLUDED)[2].partition("\n## ")[0].rstrip()
        write_text(TABLE, table(PIECES, OF_QUALITY, concluded))
        return
    if not args.data.is_dir():
        raise SystemExit(f"skipped: no benchmark data in {args.data} (see the data's README)")
    torch.set_num_threads(1)
    seeds = [int(seed) for seed in args.seeds.split(",")]
    until = time.monotonic() + 60 * args.minutes
    work(Grid(args.data, args.network, args.budget), args.methods.split(";"), args.epochs, seeds, until)


if __name__ == "__main__":
    main()
