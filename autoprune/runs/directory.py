"""`RunDirectory`: what one run keeps on disk, results/<run>/.

config.toml          the run as resolved
origin.json          where it was started: relative paths mean that
space.json           what may be pruned
scores.safetensors   the criterion's scores, computed once: a resumed run and every worker use the very same
example.safetensors  the example input
latency.json         predictors of measured latencies (where a budget is on one): the very same for all workers
task.json            what reports call the samples and the scores of the task
ledger.log           every trial (absent where the ledger is in a database)
finetune/            checkpoints of the final fine-tune
finalists/           checkpoints of the candidates that are being fine-tuned
trained/             the weights that finalists were scored with, until the winner is delivered
best/                the export of the winner
trials.csv           the trials as a table
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from torch import Tensor

from autoprune.config import RunConfig, replace
from autoprune.config.calls import calls_of
from autoprune.exporting import check_target
from autoprune.files import as_path, check_plain, disk, read_json, save_tensors, whole_directory, write_text
from autoprune.labels import Labels
from autoprune.ledger import JOIN, SERVERS, Ledger, Record
from autoprune.ledger.measurements import Measurements
from autoprune.problem import Problem, Trial
from autoprune.runs.origin import kept, located, write_origin
from autoprune.schedule import best
from autoprune.tradeoff import TradeOff
from autoprune.trust import Call, remember, require
from objectives import is_latency, offered
from objectives.guard import may_find
from objectives.latency import Latency
from search_spaces import SearchSpace

Scores = tuple[NDArray[np.float64], ...]
LONGEST = 200  # bytes of a run's name before its time: files beside it have longer ones, and 255 are the most


@dataclass(frozen=True)
class RunDirectory:
    """A run on disk.

    Attributes:
        path: results/<run>.
        config: The run as resolved.
    """

    path: Path
    config: RunConfig

    @classmethod
    def create(
        cls, path: Path, config: RunConfig, problem: Problem, example: Any, labels: Labels | None = None
    ) -> RunDirectory:
        """Make the directory, whole or not at all.

        Raises:
            ValueError: If it exists, cannot be written, or the example input cannot be kept.
        """
        tensors = example_tensors(example)
        config = replace(config, name=str(path) if path.parent != Path("results") else path.name)
        with disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        refuse_existing(path)
        try:
            with whole_directory(path, replace=False) as scratch:
                write_text(scratch / "config.toml", config.to_toml())
                write_origin(scratch, path)
                write_text(scratch / "space.json", json.dumps(problem.space.to_json()))
                write_text(scratch / "task.json", json.dumps((labels or Labels()).to_json()))
                save_tensors(
                    save_arrays, {f"{i:05d}": s for i, s in enumerate(problem.scores)}, scratch / "scores.safetensors"
                )
                save_tensors(save_file, tensors, scratch / "example.safetensors")
                if problem.latency:
                    known = {name: latency.to_json() for name, latency in problem.latency.items()}
                    write_text(scratch / "latency.json", json.dumps(known))
        except OSError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOTEMPTY, errno.EEXIST):
                refuse_existing(path)  # another search was quicker
            raise
        return cls(path, config)

    @classmethod
    def open(cls, path: str | Path, trust: bool = False) -> RunDirectory:
        """Open a run that exists, for reading; who has something of it called asks first (`autoprune.runs.allow`).

        Args:
            path: results/<run>.
            trust: Whatever it names may be called, and is remembered.

        Raises:
            ValueError: If it is not a run's directory, or another object is offered than it was begun with.
        """
        path = as_path("run", path)
        if path.name in ("", ".."):
            path = path.resolve()  # "." has no name
        if not os.path.isfile(path / "config.toml"):
            found = sorted(p.parent.name for p in Path("results").glob("*/config.toml"))
            known = f"; runs here: {', '.join(found)}" if found else "; there is none under results/ yet"
            known = f"; did you mean results/{path.name}?" if path.name in found else known
            raise ValueError(f"run '{path}': expected the directory of a run, but it has no config.toml{known}")
        config = located(_read_config(path / "config.toml"), path)
        if trust:
            remember(calls_of(config))
        return cls(path, config)

    def scores(self) -> Scores:
        """The saved scores, per group [C].

        Raises:
            ValueError: If they are damaged.
        """
        found = tuple(array for _, array in sorted(self._read(load_arrays, "scores.safetensors").items()))
        if not all(array.ndim == 1 and np.isfinite(array).all() for array in found):
            path = self.path / "scores.safetensors"
            raise ValueError(f"'{path}': damaged (expected finite numbers for each group); start the search anew")
        return found

    def example(self) -> Any:
        """The example input: a tensor, or a tuple, list or dictionary of them, one within the other."""
        return nested(self._read(load_file, "example.safetensors"))

    @cached_property
    def labels(self) -> Labels:
        """What reports call its samples and scores; as of image classification where nothing says it."""
        return Labels.of(self.path)

    @property
    def metric(self) -> str:
        """What the minimised number is called."""
        return self.labels.score(self.config.metric).minimised

    def latency(self) -> dict[str, Latency]:
        """Metric -> predictor of the budgets on a measured latency, as it was when the run began.

        Raises:
            ValueError: If the file is damaged.
        """
        path = self.path / "latency.json"
        try:
            known = read_json(path) if path.exists() else {}
            return {name: Latency.from_json(data) for name, data in known.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"'{path}': damaged ({error}); start the search anew") from error

    def space(self) -> SearchSpace:
        """What may be pruned in this run's network.

        Raises:
            ValueError: If the file is missing or damaged, or does not fit the scores.
        """
        path = self.path / "space.json"
        try:
            found = SearchSpace.from_json(read_json(path))
        except (OSError, ValueError) as error:
            raise ValueError(f"'{path}': damaged or missing ({error}); start the search anew") from error
        fits = [group.size for group in found.groups] == [len(scores) for scores in self.scores()]
        if not (fits and found.layers and found.tensors):
            why = "no layers" if fits else "other groups than in scores.safetensors"
            raise ValueError(f"'{path}': damaged ({why}); start the search anew")
        return found

    def record(self) -> Record:
        """What the ledger says now; the run may be going on meanwhile.

        Raises:
            NotTrusted: If it is in a database that nobody has allowed to connect to.
        """
        if self.config.ledger:
            require([Call("ledger", self.config.ledger)], f"run '{self.path}'")
        if self.config.method and not Ledger.has_begun(self.path, url=self.config.ledger, study=self.study):
            return Record({}, {}, (), {})  # a method trains before there is a ledger
        return Ledger.read(self.path, url=self.config.ledger, study=self.study)

    def as_written(self, *names: str) -> dict[str, Any]:
        """Settings as `remember` writes them: relative paths not as they are seen from here."""
        config = kept(
            _read_config(self.path / "config.toml"), self.path, {name: getattr(self.config, name) for name in names}
        )
        return {name: getattr(config, name) for name in names}

    def remember(self, **settings: Any) -> None:
        """Change settings in config.toml for good; whoever does must have the run's ledger open.

        Raises:
            DiskError: If it cannot be written.
        """
        before = _read_config(self.path / "config.toml")
        if (after := replace(before, **settings)) != before:
            write_text(self.path / "config.toml", after.to_toml())

    def check_places(self) -> None:
        """Check that what the end of a search writes will find its place; also sweeps what killed exports left.

        Raises:
            ValueError: If something else is there.
        """
        check_target(self.best)
        for folder in (self.checkpoint, self.finalists, self.trained, self.path / "ray"):
            if os.path.lexists(folder) and not folder.is_dir():
                raise ValueError(f"'{folder}': must be a directory of the run, but something else is there; remove it")
        for file in (self.path / "trials.csv", self.path / "config.toml"):
            if file.is_dir():
                raise ValueError(f"'{file}': must be a file of the run, but a directory is there; remove it")

    def remove(self) -> None:
        """Take the run back: it was refused before its first trial."""
        shutil.rmtree(self.path, ignore_errors=True)

    def trial(self, number: int | None = None) -> Trial:
        """A trial, or the winner so far.

        Raises:
            ValueError: If there is no such trial.
        """
        record = self.record()
        trials = record.trials
        found = self.leader(record) if number is None else next((t for t in trials if t.number == number), None)
        if found is None:
            wanted = "complete trial" if number is None else f"trial {number}"
            hint = f"`autoprune report {self.path}`"
            raise ValueError(f"run '{self.path}': has no {wanted} among its {len(trials)}; see {hint}")
        return found

    def leader(self, record: Record) -> Trial | None:
        """The trial to deliver, of those so far; None before the first complete one.

        Where finalists were measured for a latency budget: of those that held it.
        """
        tradeoff, measured = self.tradeoff(record), Measurements.of(record.notes)
        trials = [t for t in record.trials if measured.may_win(t.widths)]
        return (tradeoff.best if tradeoff else best)(trials, self.config.schedule.fidelities)

    def tradeoff(self, record: Record) -> TradeOff | None:
        """What counts in this run if it has several goals; None: the loss, also where a cost may not be called here."""
        front = self.config.front
        if not all(is_latency(metric) or may_find("cost", metric) for metric in front):
            return None
        if list(front) != list(record.fingerprint.get("front", [()])[0]):
            raise ValueError(f"run '{self.path}': its config.toml is of another run than its ledger: the front differs")
        if not front:
            return None
        return TradeOff.read(record.fingerprint, self.space(), self.latency(), bool(self.config.budget))

    @property
    def study(self) -> str:
        """Name of the study in the ledger: that of the run when it began, even if its directory was renamed since."""
        return Path(self.config.name or self.path).name

    @property
    def best(self) -> Path:
        """Where the winner is exported."""
        return self.path / "best"

    @property
    def checkpoint(self) -> Path:
        """Where the final fine-tune keeps its state."""
        return self.path / "finetune"

    @property
    def finalists(self) -> Path:
        """Where candidates that are being fine-tuned keep their state, whatever the working directory becomes."""
        return self.path.resolve() / "finalists"

    @property
    def trained(self) -> Path:
        """Where finalists leave the weights that they were scored with."""
        return self.path.resolve() / "trained"

    def _read(self, load: Any, name: str) -> dict[str, Any]:
        try:
            check_plain(self.path / name)
            return dict(load(self.path / name))
        except (OSError, ValueError, SafetensorError) as error:
            raise ValueError(f"'{self.path / name}': damaged or missing ({error}); start the search anew") from error


def _read_config(path: Path) -> RunConfig:
    """A run's settings, as they were written."""
    said = RunConfig.read(path)
    if absent := {"model", "data", "seed", "pt2"} - said.keys():  # from its first line to its last
        raise ValueError(f"'{path}': damaged (lacks {', '.join(sorted(absent))}); start the search anew")
    try:
        said |= {kind: offered(kind, str(said[kind])) for kind in ("criterion", "strategy", "metric") if kind in said}
        return RunConfig.make(**said)
    except ValueError as error:
        raise ValueError(f"'{path}': {error}") from error


def run_path(config: RunConfig, model_name: str) -> Path:
    """results/<name>; a name with a slash is the path itself; no name is made from the model and the time.

    Raises:
        ValueError: If the name cannot be that of a directory, or would be read as something else.
    """
    made = f"{re.sub(r'[^A-Za-z0-9_]+', '-', model_name).strip('-')[:LONGEST]}-{time.strftime('%Y%m%d-%H%M%S')}"
    name = config.name.rstrip("/") or ("/" if config.name else made)
    last = name.rpartition("/")[2]
    if not last.strip(". "):
        fault = "must not end in dots or blanks only"
    elif last.startswith("-"):
        fault = "must not begin with a dash, which marks a flag"
    elif len(os.fsencode(last)) > LONGEST + 16:
        fault = f"must have at most {LONGEST + 16} bytes, has {len(os.fsencode(last))}"
    else:
        return Path(name) if "/" in name else Path("results") / name
    raise ValueError(f"name '{config.name}': {fault}; choose another --name, e.g. small18")


def refuse_existing(path: Path, ledger: str = "") -> None:
    """Check that nothing is there yet.

    Args:
        path: Of the run.
        ledger: The database of its ledger: on a server a search may be joined.

    Raises:
        ValueError: If something is.
    """
    if (path / "config.toml").exists():
        ways = f"`autoprune resume {path}`{JOIN if ledger.startswith(SERVERS) else ''}, or choose another --name"
        raise ValueError(f"run '{path}': exists already; {ways}")
    if path.exists():
        raise ValueError(f"run '{path}': something else is there already; choose another --name")


def example_tensors(example: Any) -> dict[str, Tensor]:
    """An example input as it is kept, one tensor per name, no two in the same memory.

    Raises:
        ValueError: If it is not a tensor, or a tuple, list or dictionary of tensors.
    """
    named = {"input": example} if isinstance(example, Tensor) else dict(_named(example, ""))
    if not named:
        named = {"tuple.00": example}
    for name, value in named.items():
        if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_quantized:
            what = value.layout if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"example_inputs: '{name}' is of kind {what}, but only dense tensors can be kept for a resume; give a "
                "tensor, or a tuple or dictionary of tensors, and wrap a model that needs more"
            )
    return {name: value.detach().cpu().clone().contiguous() for name, value in named.items()}


def nested(tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `example_tensors`: names such as "input", "tuple.00", "dict.x", "tuple.00/list.01"."""
    if set(tensors) <= {"input", ""}:
        return next(iter(tensors.values()))
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in sorted(tensors.items()):
        first, _, rest = name.partition("/")
        parts.setdefault(first, {})[rest] = tensor
    values = {name: nested(part) for name, part in parts.items()}
    kind = next(iter(values)).partition(".")[0]
    if kind == "dict":
        return {name.removeprefix("dict."): value for name, value in values.items()}
    return list(values.values()) if kind == "list" else tuple(values.values())


def _named(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every leaf of tuples, lists and dictionaries, by where it stands; the outermost are arguments."""
    at = f"{name}/" if name else ""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _named(item, f"{at}dict.{key}")
    elif isinstance(value, (tuple, list)):
        kind = "list" if isinstance(value, list) and name else "tuple"
        for i, item in enumerate(value):
            yield from _named(item, f"{at}{kind}.{i:02d}")
    else:
        yield name or "tuple.00", value
