"""From the keywords of a function to one `RunConfig`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from autoprune.config import SETTINGS, RunConfig, names_of
from autoprune.data import ImageData
from autoprune.runs import allow_file

Model = nn.Module | str
Data = ImageData | str
Budget = str | Sequence[str]


def settled(
    verb: str,
    config: RunConfig | str | Path | None,
    model: Model | None,
    data: Data | None,
    budget: Budget | None,
    settings: Mapping[str, Any],
    trust: bool = False,
) -> tuple[Model, Data, dict[str, Any]]:
    """The model, the data and all other settings that are not as usual; keywords win over the configuration.

    Raises:
        ValueError: If the model or the data is missing, or a keyword is none of the verb's.
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
    for name, value in found.items():
        if value is None:
            raise ValueError(f"{name}: missing; {SETTINGS[name].help}, or an object")
    return found["model"], found["data"], given
