"""What a worker process holds in memory over many candidates, and writes memory.md beside this file.

    python results/benchmarks/memory.py [--candidates 2000] [--data ../shared/data] [--real 400]

One child process as a search starts it, given a live network and live images (they go to it in a parcel, as nothing
says how to build them), evaluates random widths; its resident memory is read from /proc after every fiftieth part.
A small network on small images, so that 2,000 candidates take a minute or two; with --data also ResNet-20 on 50,000
images of 32x32. The table is recorded, nothing is asserted.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from protocol import WEIGHTS, dense_network, images, processor
from torch import nn

from autoprune.config import RunConfig
from autoprune.controller import Job
from autoprune.data import ImageData, Split
from autoprune.files import write_text
from autoprune.problem import Problem
from autoprune.runs import Recipe
from autoprune.workers.child import READY, RESULT, Child
from autoprune.workers.parcel import Parcel
from autoprune.workers.slots import share_out
from search_spaces import trace
from search_spaces.models import digits_cnn

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
    """

    candidates: int
    private: float
    resident: float


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
    return Look(candidates, kib["RssAnon"] / 1024, kib["VmRSS"] / 1024)


def held(case: Case) -> dict[str, float]:
    """MiB of what the worker needs once."""
    data = case.data
    splits = {"train": data.train, "val": data.val, "test": data.test}
    sizes = {name: (part.images.nbytes + part.labels.nbytes) / MIB for name, part in splits.items()}
    state = case.model.state_dict().values()
    return {**sizes, "weights": sum(t.nbytes for t in state) / MIB}


def watch(case: Case) -> tuple[list[Look], float]:
    """Looks at one worker: before its first candidate, and so on; and seconds per candidate."""
    space = trace(case.model.eval(), case.data.example)
    scores = tuple(np.arange(g.size, dtype=np.float64) for g in space.groups)
    recipe = Recipe(RunConfig(**case.settings), Problem(space, (), scores), case.model, case.data)
    parcel = Parcel(recipe)
    child = Child("worker-0", parcel, share_out(1)[0])
    try:
        assert child.pipe.recv() == (READY, None)
        looks, start = [look(child.pid, 0)], time.perf_counter()
        for number, widths in enumerate(sampled(space, case.candidates), 1):
            child.work(Job(number, widths, case.fidelity if number % SHORT else "short:5"))
            kind, metrics = child.pipe.recv()
            assert kind == RESULT
            assert isinstance(metrics, dict), metrics
            if number % max(1, case.candidates // LOOKS) == 0:
                looks.append(look(child.pid, number))
                print(looks[-1], flush=True)
        return looks, (time.perf_counter() - start) / case.candidates
    finally:
        child.end()
        parcel.close()


def sampled(space: Any, count: int) -> Iterator[tuple[int, ...]]:
    """Random widths: no two candidates have the same shapes, which is the worst case for what libraries cache."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield space.sample(rng)


def small(candidates: int) -> Case:
    """The digits' network on random images: 4,000 of 8x8."""
    rng = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        labels = torch.arange(count) % 10
        return Split(torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8, generator=rng), labels)

    data = ImageData(split(4000), split(400), split(400), (0.5,), (0.5,), tuple("0123456789"))
    settings = {"val_images": 64, "bn_images": 64, "batch_size": 32}
    return Case("digits_cnn, 8x8", digits_cnn(), data, candidates, "reconstructed:32", settings)


def real(folder: Path, candidates: int) -> Case:
    """ResNet-20 on CIFAR-10-JPEG."""
    settings = {"val_images": 256, "bn_images": 256}
    return Case(
        "ResNet-20, 32x32", dense_network(folder / WEIGHTS), images(folder), candidates, "reconstructed", settings
    )


def rows(case: Case) -> list[str]:
    """The table of one case."""
    looks, seconds = watch(case)
    half = looks[len(looks) // 2]
    needs = ", ".join(f"{name} {size:.1f}" for name, size in held(case).items())
    shown = [looks[round(i * (len(looks) - 1) / 10)] for i in range(11)]
    slope = 1000 * (looks[-1].private - half.private) / max(1, looks[-1].candidates - half.candidates)
    return [
        f"## {case.name}: {case.candidates:,} candidates, {1e3 * seconds:.0f} ms each\n",
        f"What is to be held, in MiB: {needs} (test stays behind).\n",
        "| candidates | private, MiB | resident, MiB |",
        "|---|---|---|",
        *(f"| {at.candidates:,} | {at.private:.0f} | {at.resident:.0f} |" for at in shown),
        "",
        f"Second half: {slope * 1024:+.0f} KiB per 1,000 candidates.\n",
    ]


def report(cases: list[Case]) -> str:
    """All of it, in Markdown."""
    return "\n".join(
        [
            "# What a worker holds over many candidates\n",
            "Made by `memory.py`: one child process, random widths, reconstruction for each, a short training of five",
            f"steps for one in {SHORT}. {processor()};",
            f"Python {platform.python_version()}, torch {torch.__version__}.\n",
            *(line for case in cases for line in rows(case)),
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=2000)
    parser.add_argument("--data", type=Path, help="folder with cifar10_jpeg.tar.xz and the weights")
    parser.add_argument("--real", type=int, default=400, help="candidates there")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [small(args.candidates)] if args.candidates else []
    table = report([*chosen, *([real(args.data, args.real)] if args.data else [])])
    write_text(args.out, table)
    print(table)
