"""What a worker process holds in memory over many candidates, and writes memory.md beside this file.

    python results/benchmarks/memory.py [--candidates 2000] [--only digits_cnn resnet20]
    python results/benchmarks/memory.py --compare 200           # with and without what keeps it level
    python results/benchmarks/memory.py --candidates 0 --search 400    # a search without workers, with and without

One child process as a search starts it, given a live network and live images (they go to it in a file, as nothing
says how to build them), evaluates random widths; its resident memory and its CPU time are read from /proc after every
fiftieth part. Few images are scored, so that 2,000 candidates take minutes (digits_cnn, 8x8) or a quarter of an hour
(ResNet-20, 50,000 images of 32x32 to hold) of one core; the images are random, which memory does not see. The table is
recorded, nothing is asserted.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from protocol import processor
from scipy.stats import theilslopes
from torch import nn

import autoprune
from autoprune.config import RunConfig
from autoprune.controller import Job
from autoprune.data import ImageData, Split
from autoprune.files import write_text
from autoprune.problem import Problem, Trial
from autoprune.report import RunProgress
from autoprune.runs import Recipe
from autoprune.workers import child as workers_child
from autoprune.workers import here as workers_here
from autoprune.workers.child import READY, RESULT, Child
from autoprune.workers.memory import KERNELS
from autoprune.workers.pickle_file import PickleFile
from autoprune.workers.slots import assign_slots
from search_spaces import trace
from search_spaces.models import digits_cnn, resnet20

MIB = 2**20
SHORT = 100  # every so-manieth candidate is a finalist
LOOKS = 50


@dataclass(frozen=True)
class Look:
    """The memory of a process at one moment, in MiB.

    Attributes:
        candidates: Evaluated so far.
        private: Its own ("RssAnon").
        resident: With the libraries' code ("VmRSS").
        cpu_s: Seconds of CPU time so far, its own and the system's for it.
    """

    candidates: int
    private: float
    resident: float
    cpu_s: float


@dataclass(frozen=True)
class Case:
    """A network, its images, and how many candidates."""

    name: str
    model: nn.Module
    data: ImageData
    candidates: int
    fidelity: str
    settings: dict[str, Any]


def look(pid: int, candidates: int) -> Look:
    """Read it from /proc."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith(" kB")}
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    cpu_s = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    return Look(candidates, kib["RssAnon"] / 1024, kib["VmRSS"] / 1024, cpu_s)


def held(case: Case) -> dict[str, float]:
    """MiB of what the worker needs once."""
    data = case.data
    splits = {"train": data.train, "val": data.val, "test": data.test}
    sizes = {name: (part.images.nbytes + part.labels.nbytes) / MIB for name, part in splits.items()}
    state = case.model.state_dict().values()
    return {**sizes, "weights": sum(t.nbytes for t in state) / MIB}


class Keeping:
    """Builds the evaluator in a child that then keeps its free pages, as all did before.

    Args:
        recipe: device -> (job -> metrics).
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def __call__(self, device: str) -> Any:
        workers_child.give_back = lambda: None
        return self.recipe(device)


def watch(case: Case, keep: bool = False) -> list[Look]:
    """Looks at one worker: before its first candidate, and so on.

    Args:
        case: What it evaluates.
        keep: Whether it keeps its free pages and as many kernels as oneDNN likes.
    """
    space = trace(case.model.eval(), case.data.example)
    scores = tuple(np.arange(g.size, dtype=np.float64) for g in space.groups)
    recipe = Recipe(RunConfig(**case.settings), Problem(space, (), scores), case.model, case.data)
    pickle_file = PickleFile(Keeping(recipe) if keep else recipe)
    if keep:
        os.environ[KERNELS] = "1024"
    child = Child("worker-0", pickle_file, assign_slots(1)[0])
    os.environ.pop(KERNELS, None)
    try:
        assert child.pipe.recv() == (READY, None)
        looks = [look(child.pid, 0)]
        for number, widths in enumerate(sampled(space, case.candidates), 1):
            child.work(Job(number, widths, case.fidelity if number % SHORT else "short:5"))
            kind, metrics = child.pipe.recv()
            assert kind == RESULT
            assert isinstance(metrics, dict), metrics
            if number % max(1, case.candidates // LOOKS) == 0:
                looks.append(look(child.pid, number))
                print(looks[-1], flush=True)
        return looks
    finally:
        child.end()
        pickle_file.close()


def sampled(space: Any, count: int) -> Iterator[tuple[int, ...]]:
    """Random widths: no two candidates have the same shapes, which is the worst case for what libraries cache."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield space.sample(rng)


def random_images(side: int, channels: int, **counts: int) -> ImageData:
    """So many random images for train, val and test."""
    rng = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        labels = torch.arange(count) % 10
        shape = (count, channels, side, side)
        return Split(torch.randint(0, 256, shape, dtype=torch.uint8, generator=rng), labels)

    splits = {name: split(count) for name, count in counts.items()}
    return ImageData(**splits, mean=(0.5,) * channels, std=(0.25,) * channels, classes=tuple("0123456789"))


def cases(candidates: int) -> dict[str, Case]:
    """What may be watched, by name."""
    torch.manual_seed(0)
    settings = {"val_samples": 64, "bn_samples": 64, "batch_size": 64}
    digits = random_images(8, 1, train=4000, val=400, test=400)
    cifar = random_images(32, 3, train=45_000, val=5_000, test=10_000)
    return {
        "digits_cnn": Case("digits_cnn, 8x8", digits_cnn(), digits, candidates, "reconstructed:32", settings),
        "resnet20": Case("ResNet-20, 32x32", resnet20(), cifar, candidates, "reconstructed:32", settings),
    }


def cpu_ms(looks: list[Look]) -> float:
    """CPU milliseconds of a candidate, without the first fiftieth part."""
    return 1e3 * (looks[-1].cpu_s - looks[1].cpu_s) / (looks[-1].candidates - looks[1].candidates)


def rows(case: Case) -> list[str]:
    """The table of one case."""
    looks = watch(case)
    half = looks[len(looks) // 2 :]
    needs = ", ".join(f"{name} {size:.1f}" for name, size in held(case).items())
    shown = [looks[round(i * (len(looks) - 1) / 20)] for i in range(21)]
    slope = 1000 * theilslopes([at.private for at in half], [at.candidates for at in half])[0]
    return [
        f"## {case.name}: {case.candidates:,} candidates, {cpu_ms(looks):.0f} ms of CPU time each\n",
        f"What is to be held, in MiB: {needs} (test stays behind).\n",
        "| candidates | private, MiB | resident, MiB |",
        "|---|---|---|",
        *(f"| {at.candidates:,} | {at.private:.0f} | {at.resident:.0f} |" for at in shown),
        "",
        f"Second half: {slope:+.1f} MiB per 1,000 candidates (median slope of all {len(half)} looks; one right after a",
        "short training is higher, and the next is not).\n",
    ]


def compared(case: Case) -> list[str]:
    """With and without what keeps it level."""
    lines = [
        f"## {case.name}: {case.candidates:,} candidates, with what keeps it level and without\n",
        "| | private, MiB, at the beginning | half-way | at the end | CPU ms a candidate |",
        "|---|---|---|---|---|",
    ]
    for keep in (True, False):
        looks = watch(case, keep)
        at = " | ".join(f"{found.private:.0f}" for found in (looks[0], looks[len(looks) // 2], looks[-1]))
        lines.append(f"| {'before' if keep else 'now'} | {at} | {cpu_ms(looks):.0f} |")
    return [*lines, ""]


class Looking(RunProgress):
    """Looks at this process after every fiftieth trial of its search."""

    def __init__(self, trials: int) -> None:
        super().__init__(quiet=True)
        self.looks, self._every = [look(os.getpid(), 0)], max(1, trials // LOOKS)

    def on_told(self, trial: Trial) -> None:
        """A trial has finished."""
        super().on_told(trial)
        if (trial.number + 1) % self._every == 0:
            self.looks.append(look(os.getpid(), trial.number + 1))
            print(self.looks[-1], flush=True)


def search_here(end: Connection, trials: int, keep: bool) -> None:
    """The life of a process that searches without workers; sends its looks."""
    if keep:
        os.environ[KERNELS] = "1024"
        workers_here.give_back = lambda: None
    torch.set_num_threads(1)
    torch.manual_seed(0)
    progress = Looking(trials)
    settings: dict[str, Any] = {"trials": trials, "finalists": 0, "epochs": 0, "device": "cpu", "criterion": "l1"}
    with tempfile.TemporaryDirectory() as folder:
        autoprune.search(digits_cnn().eval(), "digits", name=f"{folder}/run", progress=progress, **settings)
    end.send(progress.looks)


def searched(trials: int) -> list[str]:
    """A search in one process, with and without what keeps it level."""
    found: dict[bool, list[Look]] = {}
    for keep in (True, False):
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        process = multiprocessing.get_context("spawn").Process(target=search_here, args=(theirs, trials, keep))
        process.start()
        theirs.close()
        found[keep] = ours.recv()
        process.join()
    rows = list(zip(found[True], found[False], strict=True))
    shown = [rows[round(i * (len(rows) - 1) / 14)] for i in range(15)]
    half = found[False][len(rows) // 2 :]
    slope = 1000 * theilslopes([at.private for at in half], [at.candidates for at in half])[0]
    return [
        f"## A search of digits_cnn without worker processes: {trials} trials\n",
        'Private MiB; controller, strategy and ledger are in the same process. "Before" neither gave free',
        "pages back nor kept fewer kernels there.\n",
        "| trials | before | now |",
        "|---|---|---|",
        *(f"| {was.candidates:,} | {was.private:.0f} | {now.private:.0f} |" for was, now in shown),
        "",
        f"Now, second half: {slope:+.1f} MiB per 1,000 trials (median slope of {len(half)} looks); CPU ms a trial: "
        f"{cpu_ms(found[True]):.0f} before, {cpu_ms(found[False]):.0f} now.\n",
    ]


NOTES = """## What keeps it level

- After each candidate the child gives the free pages of its heap back (`malloc_trim`). Without it, the process keeps
  what its largest moment took, and networks of ever new widths leave holes that fit no later tensor.
- The child keeps 512 kernels of oneDNN (`ONEDNN_PRIMITIVE_CACHE_CAPACITY`, set before torch is imported; torch has no
  call for it), not 1,024. All of one network fit by far; random widths never need an old one again.
- No Python object of a worker outlives its candidate. About 362 MiB are the interpreter, torch and the packages, before
  any data.
- A search without worker processes does both, too. Beside them its process holds every trial, in the ledger and in
  Optuna's copy of it: 5.8 MiB per 1,000 trials of digits_cnn (`tracemalloc`, 40th to 180th trial). What else grows in
  the first 400 trials is memory in use outside Python (`mallinfo2`: 222 MiB at the 20th trial, 260 at the 260th, 261 at
  the 380th), and oneDNN's: without oneDNN (`torch.backends.mkldnn`) it is level (180.6 MiB at the 100th, 180.8 at the
  160th). Its cache of kernels is not what grows: with room for one kernel, 205 MiB become 240 (20th to 180th trial).
  Which part of oneDNN or of torch's calls into it holds it is not known, and nothing gives it back; new widths bring
  less and less.
"""


def report(sections: list[list[str]]) -> str:
    """All of it, in Markdown."""
    return "\n".join(
        [
            "# What a worker holds over many candidates\n",
            "Made by `memory.py`: one child process, random widths, reconstruction for each, a short training of five",
            f"steps for one in {SHORT}. {processor()};",
            f"Python {platform.python_version()}, torch {torch.__version__}.\n",
            *(line for section in sections for line in section),
            NOTES,
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=2000)
    parser.add_argument("--only", nargs="*", choices=["digits_cnn", "resnet20"], default=["digits_cnn", "resnet20"])
    parser.add_argument("--compare", type=int, default=0, help="candidates with and without, for each network")
    parser.add_argument("--search", type=int, default=0, help="trials of a search without worker processes")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    sections: list[list[str]] = []
    if args.search:
        sections.append(searched(args.search))
        write_text(args.out, report(sections))
    for name in args.only:
        if args.candidates:
            sections.append(rows(cases(args.candidates)[name]))
            write_text(args.out, report(sections))
        if args.compare:
            sections.append(compared(cases(args.compare)[name]))
            write_text(args.out, report(sections))
    print(args.out.read_text())
