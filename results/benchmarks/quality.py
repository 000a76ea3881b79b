"""The harness of quality: networks x budgets x allocations of every kind x measures, in pieces that are kept.

    python results/benchmarks/quality.py --data DATA --network resnet56 --budget 15%
        [--allocations "uniform;search combined s0"] [--measures "proxy;train:351;train:1755"] [--minutes 60]
    python results/benchmarks/quality.py --data DATA --tabulate

A measure is a fidelity of the evaluator ("proxy", "reconstructed", "short:100": loss and top-1 on 2,000 of the held out
images), one of trainability.py ("isometry", "gradient flow", "smallest share"), or a training:
"train:STEPS[:fitted|:scratch][:NAME=VALUE]...[:sSEED]" is the plain protocol of protocol.py over so many steps (351 are
an epoch), from the weights as cut, with the layers reconstructed first, or from weights drawn anew (at a rate of .1),
with other `TrainingSettings` where they are named ("train:3510:ema=0.999"; distill=0.5 lets the dense network teach).
On its way a training is looked at (batch-norm re-estimated on a copy, the same 2,000 images): a shorter training at the
rate of the longer one, for nothing.

Besides the allocations of allocations.py there are searches: "search combined s0" is the network that
`autoprune.search` finds with that strategy and seed and otherwise its defaults (its weights are not used: measures
begin from the weights as cut); "search random s0" is without warm starts, "search depth s0" the default strategy with
blocks that may go. A search that was killed is resumed. "peer tp-l2-inner s0" is what another tool answers (peers.py;
extra `peers`).

Measures are made in the order of the command line, each for all allocations before the next. A piece is claimed by a
lock that dies with its process, so several may share the work; it is kept in cache/quality/ with the widths it is of,
and made again if an allocation's widths have changed. A training that is killed goes on from its last 100 steps.
--tabulate writes quality.md from all pieces that are there.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import allocations
import numpy as np
import peers
import quality_pieces
import quality_tables
import torch
import trainability
from allocations import Allocation
from protocol import CACHE, NETWORKS, claim, dense_network, images, processor, reconstructed_network
from torch import nn

import autoprune
from autoprune import criteria
from autoprune.compute import Compute
from autoprune.config import RunConfig
from autoprune.criteria.scoring import Scores
from autoprune.data import ImageData
from autoprune.evaluation import EvaluationSettings, Evaluator, measure
from autoprune.exporting import read_architecture
from autoprune.files import write_text
from autoprune.problem import Problem
from autoprune.recovery import reestimate_evenly
from autoprune.reference import fingerprint
from autoprune.runs.scoring import scored
from autoprune.tasks import as_task
from autoprune.training import Checkpoints, TrainingSettings, finetune
from objectives import parse
from search_spaces import Kept, Widths, prune, trace

PIECES = CACHE / "quality"
EPOCH, BATCH, RATE = 351, 128, 0.02
SCORE_SAMPLES, BN_SAMPLES, VAL_SAMPLES, GRADIENT_SAMPLES = 2048, 1000, 2000, 512
PLAIN: dict[str, Any] = {"lr": RATE, "lr_schedule": "cosine", "warmup": 0, "batch_size": BATCH}  # the plain protocol
STARTS = {"fitted": RATE, "scratch": 0.1}  # of a training, besides the weights as cut -> its rate
LOOKS = (25, 50, 100, 200, 351, 400, 702, 1053, 1404)
HOW = {"random": {"warm_starts": "none"}, "depth": {"strategy": "combined", "depth": "on"}}  # of a search's name


class Training(NamedTuple):
    """A measure that trains."""

    steps: int
    start: str = ""  # "": weights as cut; else one of STARTS
    seed: int = 0
    settings: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Training | None:
        """What "train:..." means; None: it is a fidelity of the evaluator.

        Raises:
            ValueError: If it cannot be read.
        """
        if not text.startswith("train:"):
            return None
        steps, *words = text.split(":")[1:]
        seeds = [w for w in words if re.fullmatch(r"s\d+", w)]
        settings = [w for w in words if "=" in w]
        starts = [w for w in words if w in STARTS]
        if not steps.isdecimal() or max(len(seeds), len(starts)) > 1 or {*words} - {*seeds, *starts, *settings}:
            raise ValueError(f"measure '{text}': expected train:STEPS[:fitted|:scratch][:NAME=VALUE]...[:sSEED]")
        pairs = [w.split("=", 1) for w in settings]
        return cls(int(steps), *starts or [""], int("".join(seeds)[1:] or 0), tuple((n, v) for n, v in pairs))

    @property
    def how(self) -> TrainingSettings:
        """The plain protocol, but for what is named.

        Raises:
            ValueError: If there is no such setting, or it cannot have that value.
        """
        known = {field.name: field.type for field in fields(TrainingSettings)}
        if unknown := [name for name, _ in self.settings if name not in known]:
            raise ValueError(f"measure: no training setting '{unknown[0]}'")
        named = {n: value if known[n].startswith("str") else json.loads(value) for n, value in self.settings}
        return TrainingSettings(**{**PLAIN, "lr": STARTS.get(self.start, RATE), "seed": self.seed, **named})


@dataclass
class Bench:
    """One network at one budget: the data, the problem, and what measures an allocation.

    Attributes:
        source: Folder of the data and the weights.
        network: A name of `protocol.NETWORKS`.
        budget: MACs that may be kept, "15%".
    """

    source: Path
    network: str
    budget: str

    @cached_property
    def data(self) -> ImageData:
        """With its test images, which only the last measurement of a training sees."""
        return images(self.source)

    @cached_property
    def dense(self) -> nn.Module:
        """The trained network; that of networks.py is in the cache, and pieces are of one training of it.

        Raises:
            SystemExit: If it is not there, or the pieces are of other weights.
        """
        file = NETWORKS[self.network].weights
        found = next((f for f in (self.source / file, CACHE / file) if f.is_file()), None)
        if found is None:
            raise SystemExit(f"no weights {file}: results/benchmarks/networks.py --network {self.network} trains them")
        model = dense_network(found, self.network)
        known, weights = PIECES / self.network / "weights.json", fingerprint(model)
        if not known.is_file():
            known.parent.mkdir(parents=True, exist_ok=True)
            write_text(known, json.dumps(weights))
        if json.loads(known.read_text()) != weights:
            raise SystemExit(f"the pieces in {known.parent} are of other weights than {found}; move them away first")
        return model

    def measure_dense(self) -> None:
        """What the network is before anything goes; once."""
        model, file = self.dense, PIECES / self.network / quality_pieces.DENSE
        if not file.is_file():
            write_text(file, json.dumps({"test_top1": measure(model, self.data, "test")["top1"]}))

    @cached_property
    def bare(self) -> Problem:
        """Space and budget, with the distances and without scores that mean anything."""
        space = trace(self.dense, torch.zeros(1, 3, 32, 32))
        even = tuple(np.ones(g.size) for g in space.groups)
        return Problem(space, (parse(f"macs<={self.budget}"),), even, criteria.distances(self.dense, space))

    def problem(self, criterion: str) -> Problem:
        """With the scores of a criterion, from 2,048 training images; those of rounds are of this budget."""
        path = PIECES / self.network / f"scores-{criterion}.json"
        if criterion.endswith(allocations.IN_ROUNDS):
            path = path.parent / self.budget.rstrip("%") / f"{path.stem.replace(' ', '-')}.scores"  # no piece
        if not path.is_file():
            found = self.scores(criterion)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps([s.tolist() for s in found]))
        return replace(self.bare, scores=tuple(np.array(s) for s in json.loads(path.read_text())))

    def scores(self, criterion: str) -> Scores:
        """As a search makes them, with its default rounds where the name says so."""
        name = criterion.removesuffix(allocations.IN_ROUNDS)
        rounds = {} if name != criterion else {"score_rounds": 1}
        config = RunConfig.make(criterion=name, budget=f"macs<={self.budget}", lr=RATE, **rounds)
        task = as_task(self.data.without_test())
        batches = lambda: task.draw("calibration", SCORE_SAMPLES, 0).batches(BATCH)  # noqa: E731
        return scored(config, self.dense, self.bare, batches, task, None)

    @cached_property
    def widths(self) -> dict[str, Widths]:
        """Allocation -> its widths, of those that can hold the budget."""
        found = {}
        for name, allocation in self.allocations.items():
            try:
                found[name] = allocation.build(self.problem)
            except ValueError as error:
                print(f"{self.network} {self.budget} {name}: {error}", flush=True)
        return found

    @cached_property
    def allocations(self) -> dict[str, Allocation]:
        """By name."""
        return allocations.of(self.network, self.budget)

    @cached_property
    def searched(self) -> dict[str, Kept]:
        """Of the searches, the units that stay."""
        return {}

    def search(self, name: str) -> None:
        """Search, or go on with the search, or ask a peer, and know what was found under that name.

        What was found is kept beside the pieces, so that another machine can measure it again.
        """
        who, strategy, seed = name.split()
        file = self.path(name, "answer").with_suffix(".answer")
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            number, used = int(seed.removeprefix("s")), time.process_time()
            if who == "peer":
                answer = peers.search(strategy, self.data, self.dense, self.budget, number, file.parent)
            else:
                answer = self.answer(name, strategy, number)
            more = {"machine": processor(), "torch": torch.__version__, "amp": Compute.choose("auto").amp}
            more |= {"compute_s": time.process_time() - used}
            write_text(file, json.dumps({**more, **answer}))
        answer = json.loads(file.read_text())
        if "error" in answer:
            print(f"{self.network} {self.budget} {name}: {answer['error']}", flush=True)
            return
        self.searched[name] = tuple(np.array(units) for units in answer["kept"])
        self.widths[name] = tuple(answer["widths"])

    def answer(self, name: str, strategy: str, seed: int) -> dict[str, Any]:
        """What a search finds; a killed one is resumed."""
        run = self.path(name, "run").with_suffix("")
        if (run / "config.toml").is_file():
            result = autoprune.resume(run, model=self.dense, data=self.data)
        else:
            how: dict[str, Any] = {"strategy": strategy, "seed": seed, "epochs": 0, **HOW.get(strategy, {})}
            result = autoprune.search(self.dense, self.data, f"macs<={self.budget}", name=str(run), **how)
        kept = read_architecture(result.run_dir / "best")["kept"]
        return {"kept": [list(units) for units in kept], "widths": list(result.widths)}

    def kept(self, name: str) -> Kept:
        """The units that stay."""
        if name in self.searched:
            return self.searched[name]
        return self.bare.space.kept(self.widths[name], self.problem(self.allocations[name].units).scores)

    def path(self, name: str, what: str) -> Path:
        """The file of a piece."""
        slug = re.sub("[^A-Za-z0-9.]+", "_", f"{name}--{what}")
        return PIECES / self.network / self.budget.rstrip("%") / f"{slug}.json"

    def read(self, name: str, what: str) -> dict[str, Any] | None:
        """A piece, if it is there and of these widths."""
        path = self.path(name, what)
        found: dict[str, Any] | None = json.loads(path.read_text()) if path.is_file() else None
        return found if found and found["widths"] == list(self.widths[name]) else None

    def make(self, name: str, what: str) -> dict[str, Any]:
        """Measure one allocation."""
        start, used = time.perf_counter(), time.process_time()
        training = Training.parse(what)
        if training:
            found = self.trained(name, what, training)
        else:
            found = self.untrained(name, what) if what in trainability.MEASURES else self.scored(name, what)
        return {
            **found, "name": name, "what": what, "widths": list(self.widths[name]), "machine": processor(),
            "torch": torch.__version__, "wall_s": time.perf_counter() - start, "compute_s": time.process_time() - used,
        }  # fmt: skip

    def scored(self, name: str, what: str) -> dict[str, Any]:
        """What the evaluator says of an allocation at one of its fidelities."""
        how = TrainingSettings(lr=RATE)
        settings = EvaluationSettings(bn_samples=BN_SAMPLES, val_samples=VAL_SAMPLES, training=how, abandon=False)
        scores = self.problem(self.allocations[name].units).scores
        evaluator = self.evaluators.get(self.allocations[name].units)
        if evaluator is None:
            evaluator = Evaluator(self.dense, self.data.without_test(), self.bare.space, scores, settings)
            self.evaluators[self.allocations[name].units] = evaluator
        said = evaluator(self.widths[name], what)
        return {key: said[key] for key in ("loss", "top1")}

    def untrained(self, name: str, what: str) -> dict[str, Any]:
        """What the network says of itself with its weights as cut, on the images that score channels."""
        model = prune(self.dense, self.bare.space.with_limits(depth=True), self.kept(name)).eval()
        compute = Compute.choose("cpu", amp=False, channels_last=False)
        task = as_task(self.data).on(compute)
        reestimate_evenly(model, task, task.draw("calibration", BN_SAMPLES, 0), BATCH, compute)
        images, labels = task.draw("calibration", GRADIENT_SAMPLES, 0).whole(GRADIENT_SAMPLES)
        return {"loss": trainability.MEASURES[what](model, self.dense, images, labels)}

    @cached_property
    def evaluators(self) -> dict[str, Evaluator]:
        """By the criterion of the units."""
        return {}

    def trained(self, name: str, what: str, how: Training) -> dict[str, Any]:
        """Train an allocation and measure it, on its way and in the end; test images only then."""
        kept, checkpoint = self.kept(name), self.path(name, what).with_suffix(".pt")
        begun = checkpoint.with_suffix(".looks")
        model = prune(self.dense, self.bare.space.with_limits(depth=True), kept)
        if how.start == "fitted" and not checkpoint.is_file():
            model = reconstructed_network(self.data, self.dense, kept, 0)
        if how.start == "scratch":
            drawn_anew(model, how.seed)
        looks: dict[str, Any] = json.loads(begun.read_text()) if begun.is_file() and checkpoint.is_file() else {}
        losses: list[float] = []

        def look(done: int, total: int, loss: float) -> None:
            losses.append(loss)
            if done in LOOKS and done < total and str(done) not in looks:
                looks[str(done)] = self.looked_at(model)
                write_text(begun, json.dumps(looks))

        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        settings = how.how
        teacher = self.dense if settings.distill else None
        finetune(
            model, self.data.without_test(), settings, steps=how.steps, teacher=teacher,
            checkpoints=Checkpoints(checkpoint, 100, strict=False), listener=look,
        )  # fmt: skip
        curve = [float(np.mean(p)) for p in chunks(losses, 25)]
        found: dict[str, Any] = {"amp": Compute.choose("auto").amp, "looks": looks, "curve": curve}
        found |= self.looked_at(model)  # loss and top1 as a fidelity would have them
        for split in ("val", "test") if how.steps >= EPOCH else ():
            found |= {f"{split}_{key}": value for key, value in measure(model, self.data, split).items()}
        checkpoint.unlink(missing_ok=True)
        begun.unlink(missing_ok=True)
        return found

    def looked_at(self, model: nn.Module) -> dict[str, float]:
        """A copy with batch-norm re-estimated, on the images that score candidates."""
        net, compute = copy.deepcopy(model).eval(), Compute.choose("auto")
        task = as_task(self.data).on(compute)
        reestimate_evenly(net, task, task.draw("calibration", BN_SAMPLES, 0), BATCH, compute)
        return measure(net, replace(self.data, val=self.data.val.sample(VAL_SAMPLES, 0)), "val")


def drawn_anew(model: nn.Module, seed: int) -> None:
    """Weights as PyTorch begins with.

    Raises:
        ValueError: If some are of no layer that draws its own.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
            elif [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
                raise ValueError(f"scratch: {type(module).__name__} has weights and does not draw them")


def chunks(values: Sequence[float], size: int) -> Iterator[Sequence[float]]:
    """Parts of `size` values."""
    return (values[i : i + size] for i in range(0, len(values), size))


def work(bench: Bench, names: Sequence[str], measures: Sequence[str], until: float) -> None:
    """Make what is missing, until the time is up."""
    for what in measures:
        for name in names:
            if time.monotonic() > until:
                return
            with claim(bench.path(name, what).with_suffix(".lock")) as mine:
                if not mine or bench.read(name, what) is not None:
                    continue
                found = bench.make(name, what)
                write_text(bench.path(name, what), json.dumps(found))
                print(f"{bench.network} {bench.budget} {what} of {name}: loss {found['loss']:.4f}, top-1 "
                      f"{100 * found.get('top1', 0):.2f}, test {100 * found.get('test_top1', 0):.2f}, "
                      f"{found['compute_s']:.0f} s", flush=True)  # fmt: skip


def main() -> None:
    """Read the command line and work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10_jpeg.tar.xz and the weights")
    parser.add_argument("--network", default="resnet56", choices=list(NETWORKS))
    parser.add_argument("--budget", default="15%")
    parser.add_argument("--allocations", default="", help="names, separated by semicolons; default: all but searches")
    parser.add_argument("--measures", default="proxy;train:351")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no piece after so long")
    parser.add_argument("--tabulate", action="store_true", help="only write the table of what is there")
    args = parser.parse_args()
    if not args.data.is_dir():
        raise SystemExit(f"skipped: no benchmark data in {args.data} (see the data's README)")
    torch.set_num_threads(1)
    if args.tabulate:
        print(quality_tables.write(PIECES, NETWORKS))
        return
    until = time.monotonic() + 60 * args.minutes
    bench = Bench(args.data, args.network, args.budget)
    bench.measure_dense()
    names = [name.strip() for name in args.allocations.split(";") if name.strip()] or list(bench.widths)
    for name in (n for n in names if n.startswith(("search ", "peer "))):
        bench.search(name)
    work(bench, [name for name in names if name in bench.widths], [m for m in args.measures.split(";") if m], until)


if __name__ == "__main__":
    main()
