"""From the arguments of a verb to what the engine takes: settings, a network or its name, data or their name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from autoprune.config import SETTINGS, RunConfig, names_of
from autoprune.config import replace as change
from autoprune.data import ImageData
from autoprune.runs import RunDirectory, allow_file
from autoprune.runs.prepare import load_data, with_memory
from autoprune.tasks import Task, as_task
from objectives import Given, named
from objectives.plugins import running

Model = nn.Module | Callable[..., nn.Module] | str
Data = Any  # str | Task | ImageData | (train, test) | (train, val, test) | dictionary | DataLoader | Dataset | function
Budget = str | Sequence[str]


def settled(
    verb: str,
    config: RunConfig | str | Path | None,
    model: Model | None,
    data: Data | None,
    budget: Budget | None,
    settings: Mapping[str, Any],
    trust: bool = False,
) -> tuple[nn.Module | str, Any, dict[str, Any]]:
    """The model, the data and all other settings that are not as usual; keywords win over the configuration.

    Raises:
        ValueError: If the model or the data is missing or unusable, or a keyword is none of the verb's.
        NotTrusted: If a file names what may not be called.
    """
    if isinstance(config, (str, Path)):
        said = RunConfig.read(config)
        ours: dict[str, Any] = {"model": model, "data": data, "budget": budget}
        ours = {name: value for name, value in ours.items() if value is not None}
        words = {name: value for name, value in ours.items() if name == "budget" or isinstance(value, str)}
        rest = {name: value for name, value in said.items() if name not in ours}  # an object's name is not called
        allow_file(str(config), rest, {**settings, **words}, trust)
        config = RunConfig.make(**said)
    if config is not None and not isinstance(config, RunConfig):
        raise ValueError(f"config: expected an autoprune.RunConfig or a TOML file, got {type(config).__name__}; e.g. "
                         "autoprune.RunConfig(trials=200)")  # fmt: skip
    RunConfig.make(**settings)  # names what is unknown
    if unfit := settings.keys() - set(names_of(verb)):
        raise ValueError(f"{verb}: takes no {', '.join(sorted(unfit))}; it takes {', '.join(names_of(verb))}")
    usual = RunConfig()
    told = {} if config is None else {name: getattr(config, name) for name in names_of(verb)}
    given = {name: value for name, value in told.items() if value != getattr(usual, name)} | dict(settings)
    if budget is not None:
        given["budget"] = budget
    elif config is not None and config.front:
        given.setdefault("budget", config.budget)
    found = {"model": given.pop("model", None), "data": given.pop("data", None)}
    found |= {name: value for name, value in (("model", model), ("data", data)) if value is not None}
    found = {name: None if isinstance(value, str) and not value else value for name, value in found.items()}
    if given.get("task") and found["data"] is not None:
        raise ValueError("task: says what the network is for, and so do the data; give one of them")
    for name, value in found.items():
        if value is None and not (name == "data" and given.get("task")):
            objects = "an nn.Module" if name == "model" else "a Task, loaders, or (images, labels)"
            raise ValueError(f"{name}: missing; {SETTINGS[name].help}; or an object: {objects}")
    made = RunConfig.make(**given)
    if not is_known(found["data"]):  # what it is decided by now, the run is to keep
        made = with_memory(made, found["data"])
        given["data_memory"] = made.data_memory
    return network(found["model"], made), purpose(found["data"], made), given


def is_known(data: Any) -> bool:
    """Whether these are data as the engine takes them: a name, images, a task, or none."""
    return data is None or isinstance(data, (str, ImageData, Task))


def network(model: Any, config: RunConfig) -> Any:
    """An nn.Module or a name; of a function, its name if that finds it again, else what it builds.

    Args:
        model: As the user gave it.
        config: With the arguments of the function.
    """
    if model is None or isinstance(model, (str, nn.Module)) or not callable(model):
        return model
    name = named(model, {})
    if not isinstance(name, Given):
        return name
    with running(f"model '{name}'"):
        return model(**config.model_args)


def purpose(data: Any, config: RunConfig) -> Any:
    """A task, images in memory, or a name; of a function, its name if that finds it again.

    Args:
        data: As the user gave it.
        config: With the arguments of loading.
    """
    if is_known(data):
        return data
    if callable(data) and not isinstance(name := named(data, {}), Given):
        return name
    found = load_data(config, given=data)
    return found if isinstance(found, ImageData) else as_task(found)


def brought(run: str | Path, model: Any, data: Any, settings: Mapping[str, Any]) -> tuple[Any, Any]:
    """The objects, or their names, that a run is gone on with, as the engine takes them.

    Raises:
        ValueError: If it is no run, or the data are unusable.
    """
    if is_known(data) and (model is None or isinstance(model, (str, nn.Module))):
        return model, data
    config = change(RunDirectory.open(run).config, **{k: v for k, v in settings.items() if k.endswith("_args")})
    return network(model, config), purpose(data, config)


def names(criterion: Any, strategy: Any, metric: Any) -> dict[str, str]:
    """The names of objects that a run is gone on with, those that were given; see `objectives.given`."""
    found = {"criterion": criterion, "strategy": strategy, "metric": metric}
    return {name: SETTINGS[name].value(thing) for name, thing in found.items() if thing is not None}
