"""`autoprune doctor`: what is installed here, what the machine offers, and what is missing for what."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch
from packaging.requirements import Requirement
from rich.table import Table
from rich.text import Text

import autoprune
from autoprune.compute import Compute
from autoprune.config import RunConfig
from autoprune.data.memory import free, memory
from autoprune.files import DiskError, check_writable
from autoprune.report import Sheet
from autoprune.runs.directory import run_path
from autoprune.workers.slots import Machine

EXTRAS = {  # of pyproject.toml: what each is for
    "onnx": "--onnx, and latency on ONNX Runtime, TensorRT or by a command",
    "report": "report.html and compare.html",
    "tasks": "metrics of segmentation, detection, multi-label and image restoration",
    "ray": "--cluster: workers on Ray",
    "postgresql": "--ledger postgresql://...: controllers on several machines",
    "dashboard": "optuna-dashboard on a run's ledger.log",
    "zoo": "networks of timm and transformers",
}
OTHERS = ("bench", "peers", "docs", "dev", "all")  # for work on autoprune itself
State = Literal["ok", "missing", "broken"]


@dataclass(frozen=True)
class Finding:
    """One line of the examination.

    Attributes:
        part: What was looked at.
        state: "ok"; "missing": something further needs it; "broken": nothing works without it.
        found: What was found, in words.
        cure: What to type; empty where nothing is to be done.
    """

    part: str
    state: State
    found: str
    cure: str = ""


class Checkup(Sheet):
    """The state of this machine; printing it shows a table, and what to type next.

    Args:
        ledger: A database that is to be reached, if any.
        cluster: A Ray cluster that is to be reached, if any.
        data: Data whose folder is to be found, if any.
        name: Of a run to come.

    Attributes:
        findings: What was found.
        is_sound: Whether nothing essential is broken.
        next: The command to type now.

    Example:
        print(Checkup(ledger="postgresql://me@host/db"))
    """

    def __init__(self, ledger: str = "", cluster: str = "", data: str = "", name: str = "") -> None:
        super().__init__()
        self.findings = (*_packages(), *_extras(), *_machine(), *_places(name, data), *_servers(ledger, cluster))
        self.is_sound = all(finding.state != "broken" for finding in self.findings)
        wrong = [finding for finding in self.findings if finding.state == "broken"]
        self.next = next((finding.cure for finding in wrong if finding.cure), "autoprune demo")
        table = Table.grid(padding=(0, 2))
        for finding in self.findings:
            said = f"{finding.found}; {finding.cure}" if finding.cure else finding.found
            table.add_row(*map(Text, (finding.state if finding.state != "ok" else "", finding.part, said)))
        self.print(f"autoprune {autoprune.__version__}", table)
        verdict = "nothing essential is broken" if self.is_sound else f"broken: {', '.join(f.part for f in wrong)}"
        self.print(f"{verdict}; next: {self.next}", markup=False, soft_wrap=True)

    def to_json(self) -> str:
        """All findings, for programs."""
        return json.dumps({"is_sound": self.is_sound, "next": self.next,
                           "findings": [asdict(finding) for finding in self.findings]}, indent=2)  # fmt: skip


def _packages() -> Iterator[Finding]:
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    found = [_package(needed, "broken") for needed in _requirements("")]
    yield Finding("packages", "ok", ", ".join(f"{one.part} {one.found}" for one in found if one.state == "ok"))
    yield from (one for one in found if one.state != "ok")


def _extras() -> Iterator[Finding]:
    for extra, use in EXTRAS.items():
        found = [_package(needed, "missing") for needed in _requirements(extra)]
        lacks = [one for one in found if one.state != "ok"]
        said = ", ".join(f"{one.part} {one.found}" for one in lacks or found)
        if lacks:
            yield Finding(f"[{extra}]", "missing", f"{said}: for {use}", f"pip install 'autoprune[{extra}]'")
        else:
            yield Finding(f"[{extra}]", "ok", said)


def _requirements(extra: str) -> list[Requirement]:
    """What the package itself, or an extra of it, needs here."""
    try:
        lines = metadata.requires("autoprune") or []
    except metadata.PackageNotFoundError:  # a copy of the sources that nobody installed
        return []
    found = [Requirement(line) for line in lines]
    if not extra:
        return [r for r in found if r.marker is None or r.marker.evaluate({"extra": ""})]
    return [
        r for r in found if r.marker and not r.marker.evaluate({"extra": ""}) and r.marker.evaluate({"extra": extra})
    ]


def _package(needed: Requirement, state: State) -> Finding:
    """A package, in `state` if it is not as it is needed."""
    cure = f"pip install '{needed.name}{needed.specifier}'"
    try:
        version = metadata.version(needed.name)
    except metadata.PackageNotFoundError:
        return Finding(needed.name, state, "is not installed", cure)
    if not needed.specifier.contains(version, prereleases=True):
        return Finding(needed.name, state, f"{version} is not {needed.specifier}", cure)
    return Finding(needed.name, "ok", version)


def _machine() -> Iterator[Finding]:
    machine = Machine.here()
    most, left = memory(), free()
    size = ", ".join(f"{n / 2**30:.1f} GiB {word}" for n, word in ((most, "in all"), (left, "free")) if n is not None)
    threads = f"{torch.get_num_threads()} threads of torch" + (
        f" (OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']})" if "OMP_NUM_THREADS" in os.environ else ""
    )
    yield Finding("cores", "ok", f"{machine.cores}, {threads}")
    yield Finding("memory", "ok", size or "nobody says")
    names = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    for name in names:
        state: State = "broken" if name == "cpu" else "missing"
        yield _tried(f"device {name}", partial(_device, name), state)
    if len(names) == 1:
        why = "torch is built without CUDA" if torch.version.cuda is None else "torch finds none (nvidia-smi?)"
        yield Finding("GPU", "missing", f"{why}; everything works on the CPU, more slowly")


def _device(name: str) -> str:
    compute = Compute.choose(name)
    fast = "native bfloat16" if compute.amp else "no native bfloat16: float32 (--amp auto)"
    if compute.device.type == "cpu":
        return f"{torch.backends.cpu.get_cpu_capability()}, {fast}"
    about = torch.cuda.get_device_properties(compute.device)
    return f"{about.name}, {about.total_memory / 2**30:.0f} GiB, {fast}"


def _places(name: str, data: str) -> Iterator[Finding]:
    run = run_path(RunConfig(name=name), "run")
    yield _tried(
        f"runs: {run.parent}/", lambda: _room(run), "broken", "cd to a folder of yours, or --name /a/folder/run"
    )
    spec, colon, folder = data.partition(":")
    if colon and "." not in spec:  # of a module:function nothing is known without calling it
        there = os.access(folder, os.R_OK)
        yield Finding(f"data: {data}", "ok" if there else "missing", "is there" if there else f"no {folder} to read")


def _room(run: Path) -> str:
    check_writable(run)
    there = next(parent for parent in (run, *run.resolve().parents) if parent.exists())
    return f"writable, {shutil.disk_usage(there).free / 2**30:.1f} GiB free"


def _servers(ledger: str, cluster: str) -> Iterator[Finding]:
    if ledger:
        yield _tried("ledger", lambda: _database(ledger), "missing", "start the server, or mend the address")
    if cluster:
        yield _tried("cluster", lambda: _ray(cluster), "missing", "ray start --head, or mend the address")


def _database(url: str) -> str:
    from autoprune.ledger.database import answers

    return answers(url)


def _ray(address: str) -> str:
    from autoprune.workers.cluster.reach import connect

    with connect(address) as cluster:
        share = cluster.share()
    return f"room for {share.num_workers} workers of {share.cpus} cores" + (
        f", {share.gpus:g} GPUs" if share.gpus else ""
    )


def _tried(part: str, look: Callable[[], Any], state: State, cure: str = "") -> Finding:
    """What a look found, or why it failed."""
    try:
        return Finding(part, "ok", str(look()))
    except (ValueError, DiskError, OSError, RuntimeError) as error:
        return Finding(part, state, " ".join(str(error).split()), cure)
