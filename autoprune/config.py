"""`RunConfig`: all that a run can be told, once. Flags, TOML files and the keywords of `search` are made from it."""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

import tomli_w

if TYPE_CHECKING:
    from autoprune.limits import Limits
    from autoprune.schedule import Halving


@dataclass(frozen=True)
class RunConfig:
    """The settings of one run, resolved and checked: every default a user may turn; `OPTIONS` explains them.

    Raises:
        ValueError: If a setting is out of its range.
    """

    # the problem: what is pruned, to what, and by which scores
    model: str = ""
    model_args: dict[str, Any] = field(default_factory=dict)
    weights: str = ""
    data: str = ""
    data_args: dict[str, Any] = field(default_factory=dict)
    input: str = ""
    budget: tuple[str, ...] = ("macs<=50%",)
    front: tuple[str, ...] = ()
    latency_command: str = ""
    criterion: str = "group_fisher"
    score_images: int = 2048
    score_per: str = ""
    divisor: int | str = "auto"
    min_keep: float = 0.05
    freeze: tuple[str, ...] = ()
    seed: int = 0
    # the search
    strategy: str = "combined"
    encoding: str = ""
    warm_starts: str = "closed"
    trials: int = 93
    time: str = ""
    target: str = ""
    max_failures: int = 10
    max_failure_rate: float = 0.8
    fidelity: str = "reconstructed"
    finalists: int = 6
    short_steps: int = 100
    rungs: int = 1
    metric: str = "loss"
    val_images: int = 2000
    bn_images: int = 1000
    batch_size: int = 128
    abandon: bool = True
    # recovery of the winner
    reconstruct: bool = True
    epochs: float = 5.0
    lr: float = 0.02
    distill: float = 0.0
    # where and how
    name: str = ""
    ledger: str = ""
    join: bool = False
    workers: int = 0
    devices: tuple[str, ...] = ()
    per_device: int = 0
    cluster: str = ""
    timeout: float = 0.0
    device: str = "auto"
    onnx: bool = False
    pt2: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, low in _AT_LEAST.items():
            if not getattr(self, name) >= low:
                raise ValueError(f"{name}: must be at least {low}, got {getattr(self, name)}")
        if self.divisor != "auto" and not (isinstance(self.divisor, int) and self.divisor >= 1):
            raise ValueError(f"divisor: must be auto or a whole number of at least 1, got {self.divisor!r}")
        for name in ("min_keep", "distill", "max_failure_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: must lie between 0 and 1, got {getattr(self, name)}")
        if self.time or self.target:
            _ = self.limits
        if not (self.budget or self.front):
            raise ValueError("budget: at least one is needed, e.g. macs<=50%")
        if self.front:
            self._check_front()

    def _check_front(self) -> None:
        """Write the metrics of the front out, and refuse what makes no sense with several goals."""
        from objectives import parse_metrics  # here, because --help need not wait for torch

        object.__setattr__(self, "front", parse_metrics(self.front))
        if self.target:
            raise ValueError("target: one candidate that is good enough is no front; leave target or front out")
        if self.cluster and self.rungs > 1:
            raise ValueError("rungs: Ray stops finalists by their loss alone, which ends the front; leave it at 1")

    @property
    def goal(self) -> str:
        """What is asked for, in words: the budgets, and what the loss is traded off against."""
        bounds = ", ".join(self.budget)
        if not self.front:
            return bounds
        return f"front of loss and {' and '.join(self.front)}" + (f", all within {bounds}" if bounds else "")

    @property
    def schedule(self) -> Halving:
        """What is evaluated when, how well."""
        from autoprune.schedule import Halving, halving  # here, because --help need not wait for torch

        if self.cluster:  # one rung of all, which Ray Tune thins out (ASHA) while they are trained
            rungs = halving(self.finalists * 2 ** (self.rungs - 1), self.short_steps)
            return Halving(self.trials, rungs, self.fidelity)
        return Halving(self.trials, halving(self.finalists, self.short_steps, self.rungs), self.fidelity)

    @property
    def limits(self) -> Limits:
        """What ends the search before its last trial."""
        from autoprune.limits import Limits, parse_target, parse_time

        return Limits(parse_time(self.time), parse_target(self.target), self.max_failures, self.max_failure_rate)

    @classmethod
    def make(cls, **settings: Any) -> RunConfig:
        """A configuration from loosely typed settings: what TOML, flags and keywords have in common.

        Raises:
            ValueError: If a setting is unknown, of the wrong type or out of range, or cannot be written to a TOML file.
        """
        types = get_type_hints(cls)
        for name in settings:
            if name not in types:
                near = difflib.get_close_matches(name, types, n=1)
                hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(types)}"
                raise ValueError(f"unknown setting '{name}'; {hint}")
        if settings.get("front"):
            settings = {"strategy": "nsga2", "budget": (), **settings}  # other defaults
        return cls(**{name: _coerce(name, types[name], value) for name, value in settings.items()})

    @classmethod
    def read(cls, path: str | Path) -> dict[str, Any]:
        """The settings in a TOML file (not yet a `RunConfig`: flags may still win over them).

        Raises:
            ValueError: If there is no such file or it is not TOML.
        """
        try:
            data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"configuration '{path}': unreadable ({error.strerror}); expected a TOML file") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"configuration '{path}': not valid TOML: {error}") from error
        return {key.replace("-", "_"): value for key, value in data.items()}

    def to_toml(self) -> str:
        """The whole configuration as TOML; `make(**read(file))` gives it back."""
        plain = {f.name: _to_toml(getattr(self, f.name)) for f in fields(self)}
        tables = {k: plain.pop(k) for k in ("model_args", "data_args")}  # TOML: tables come last
        note = "# This run as resolved; `autoprune search --config <this file> --name <new>` starts one like it.\n"
        return note + tomli_w.dumps({**plain, **tables})


_AT_LEAST: Mapping[str, float] = {
    "score_images": 1,
    "trials": 1,
    "max_failures": 1,
    "finalists": 0,
    "rungs": 1,
    "short_steps": 1,
    "val_images": 1,
    "bn_images": 1,
    "batch_size": 1,
    "epochs": 0,
    "lr": 0,
    "workers": 0,
    "per_device": 0,
    "timeout": 0,
    "seed": 0,
}


def _coerce(name: str, kind: Any, value: Any) -> Any:
    """`value` as the field's type, or a ValueError that says what was expected."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind == int | str:
        if isinstance(value, str) and value.isdecimal():
            return int(value)
        kind = str if isinstance(value, str) else int
    if kind == tuple[str, ...]:
        texts = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else (value,)
        if all(isinstance(text, str) for text in texts):
            return texts
        raise ValueError(f"{name}: expected one or more strings, got {value!r}")
    if kind == dict[str, Any] and isinstance(value, Mapping):
        return {key: _argument(name, key, item) for key, item in value.items()}
    if kind == dict[str, Any]:
        kind = dict
    if isinstance(value, Path) and kind is str:
        return str(value)
    if type(value) is not kind:
        raise ValueError(f"{name}: expected {_WORDS[kind]}, got {value!r}")
    return value


def _argument(name: str, key: str, value: Any) -> Any:
    """A keyword argument as it comes back from a TOML file: the word "None" is None, a tuple is a list."""
    try:
        text = tomli_w.dumps({key: _to_toml(value)})
    except (TypeError, AttributeError) as error:
        raise ValueError(
            f"{name}: {key}={value!r} cannot be written to the run's config.toml; give numbers, strings, true or "
            "false, None, lists or tables, or a factory of your own that makes the rest"
        ) from error
    return _from_toml(tomllib.loads(text)[key])


def _to_toml(value: Any) -> Any:
    """TOML has no None: it is written as the word, as on the command line."""
    if isinstance(value, Mapping):
        return {key: _to_toml(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_toml(item) for item in value]
    return "None" if value is None else value


def _from_toml(value: Any) -> Any:
    """The inverse of `_to_toml`."""
    if isinstance(value, dict):
        return {key: _from_toml(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_from_toml(item) for item in value]
    return None if value == "None" else value


_WORDS = {str: "a string", int: "a whole number", float: "a number", bool: "true or false", dict: "a table"}


def replace(config: RunConfig, **settings: Any) -> RunConfig:
    """The same configuration with other settings (checked like all settings)."""
    return RunConfig.make(**{**{f.name: getattr(config, f.name) for f in dataclasses.fields(config)}, **settings})
