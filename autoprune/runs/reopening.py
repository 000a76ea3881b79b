"""A run is opened again: with other settings, and with its network and data, however they were named or given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from autoprune.config import OBJECTS, names_of
from autoprune.config import replace as change
from autoprune.data import ImageData
from autoprune.errors import Unnamed
from autoprune.report.ending import study_call
from autoprune.runs.directory import RunDirectory
from autoprune.runs.prepare import Prepared, prepare
from autoprune.tasks import Task
from objectives import is_lost

REFERENCES = ("model", "model_args", "weights", "data", "data_args", "task")  # settings that name a run's objects


def reopen(
    run: RunDirectory, verb: str, model: nn.Module | None = None, data: Task | ImageData | None = None
) -> Prepared:
    """The problem of a run as it was prepared, with the very same scores.

    Args:
        run: With the settings as changed.
        verb: That asks for it, for the error.
        model: The dense network, where the settings do not say how to build it.
        data: The data, likewise.

    Raises:
        ValueError: If something was given as an object and is not given now.
    """
    lost = [name for name in OBJECTS if is_lost(getattr(run.config, name))]
    named = {"model": run.config.model, "data": run.config.data or run.config.task}
    if missing := [n for n, given in (("model", model), ("data", data)) if given is None and not named[n]]:
        raise unnamed(run, verb, [*missing, *lost])
    if lost:
        raise unnamed(run, verb, lost)
    divisors = [group.divisor for group in run.space().groups]
    return prepare(run.config, model, data, run.example(), run.scores(), run.latency(), divisors)


def unnamed(run: RunDirectory, verb: str, missing: Sequence[str]) -> Unnamed:
    """What to do with a run of objects whose names nobody knows; `run` has the settings that were given."""
    weights = "" if verb == "attach" or run.config.weights else " --weights FILE"
    known = {"model": f"--model package.module:factory{weights}", "data": "--data SPEC"}
    flags = "" if any(name not in known for name in missing) else " ".join(known[name] for name in missing)
    other = " (a task: --task package.module:function in place of --data)" if "data" in missing else ""
    return Unnamed(str(run.path), verb, missing, flags, other)


def by_name(
    model: nn.Module | str | None, data: Task | ImageData | str | None, settings: Mapping[str, Any]
) -> tuple[nn.Module | None, Task | ImageData | None, dict[str, Any]]:
    """The objects, and with the settings what was given by its name."""
    names = {name: given for name, given in (("model", model), ("data", data)) if isinstance(given, str)}
    live_model, live_data = None if isinstance(model, str) else model, None if isinstance(data, str) else data
    return live_model, live_data, {**names, **settings}


def named(run: RunDirectory, settings: Mapping[str, Any]) -> RunDirectory:
    """The run with those of the settings that name its network and its data."""
    return RunDirectory(run.path, change(run.config, **{k: v for k, v in settings.items() if k in REFERENCES}))


def changed_run(run: RunDirectory, verb: str, settings: Mapping[str, Any], without: Sequence[str] = ()) -> RunDirectory:
    """The run with other settings, those that a verb may change (`without` some).

    Raises:
        ValueError: If one may not change, or the run is a study.
    """
    if call := study_call(run):
        raise ValueError(f"{verb}: '{run.path}' is a study, whose candidates your own code trains and evaluates; go on "
                         f"in Python: study = {call}; its best network is study.best.model")  # fmt: skip
    allowed = [name for name in names_of(verb) if name not in without]
    if unfit := settings.keys() - set(allowed):
        raise ValueError(f"{verb}: {', '.join(sorted(unfit))} may not change; only {', '.join(allowed)} may")
    return RunDirectory(run.path, change(run.config, **settings))
