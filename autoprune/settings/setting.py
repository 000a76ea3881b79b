"""`Setting`: all there is to know of one setting of a run; it stands as the metadata of its field."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from autoprune.settings.toml import as_read_back

T = TypeVar("T")
BEGIN = ("search", "train", "profile")  # the verbs that take every setting
MOST = 10_000_000  # of anything that is counted, and of seconds: what is more is a slip of the hand
LATER: Any = None  # a default that depends on other settings
WORDS = {str: "a string", int: "a whole number", float: "a number", bool: "true or false", dict: "a table"}


@dataclass(frozen=True)
class Setting:
    """One setting of a run: flags, TOML keys, keywords, help and checks are derived from it.

    Attributes:
        group: Where the help shows it: "problem", "search", "training" or "run".
        metavar: What stands for its value in the help; "" for yes or no.
        help: What it is, with its unit.
        default: If it is not given.
        kind: Of its value: str, int, float, bool, `int | str`, tuple (of strings), dict (of keyword arguments), or
            object: a name, or what a name may stand for (see `named`).
        low: The least value of a number,
        high: and the largest.
        usual: The default in words; empty where there is nothing to say.
        verbs: That take it besides "search": "resume", "finetune", "export" and "attach" may change it;
            "profile", which takes every setting, uses it.
        common: The verbs whose `--help` lists it; "*": of all that show it. `--help-all` lists the others, too.
        brief: What `--help` says of it; empty: `help`.
        name: Of its field.
        named: Of an object: (name of the setting, what was given) -> its name.
    """

    group: str
    metavar: str
    help: str
    default: Any
    kind: Any
    low: float
    high: float
    usual: str
    verbs: tuple[str, ...]
    common: tuple[str, ...] = ()
    brief: str = ""
    name: str = ""
    named: Callable[[str, Any], str] | None = None

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return f"--{self.name.replace('_', '-')}"

    def is_taken_by(self, verb: str) -> bool:
        """Whether a verb of the command line, or the function of its name, takes it."""
        return verb in BEGIN or verb in self.verbs

    def is_shown_by(self, verb: str) -> bool:
        """Whether its whole help lists it: a profile takes every flag of a search, and uses some of them."""
        return verb == "search" or verb in self.verbs or (verb == "train" and self.group != "search")

    def is_common_in(self, verb: str) -> bool:
        """Whether the short help of the verb lists it."""
        return self.is_shown_by(verb) and bool({"*", verb} & {*self.common})

    def value(self, given: Any) -> Any:
        """What was given, as the kind of the setting.

        Raises:
            ValueError: If it is of another kind, out of range, or cannot be written to a TOML file.
        """
        value = _coerced(self, given)
        if type(value) in (int, float) and not self.low <= value <= self.high:
            low, high = (f"{int(bound):,}" if bound == int(bound) else f"{bound:g}" for bound in (self.low, self.high))
            bounds = f"lie between {low} and {high}" if high == "1" or value != value else f"be at least {low}"
            bounds = f"be at most {high}" if value > self.high and high != "1" else bounds
            raise ValueError(f"{self.name}: must {bounds}, got {value}")
        return value


@dataclass(frozen=True)
class Group:
    """Makes the fields of a dataclass for the settings that the help shows together.

    Attributes:
        name: Of the group.
        verbs: That take all of its settings besides those that begin a run.
    """

    name: str
    verbs: str = ""

    def __call__(
        self,
        default: T,
        metavar: str,
        help: str,
        *,
        kind: Any = None,
        low: float = -math.inf,
        high: float = math.inf,
        usual: str = "",
        verbs: str = "",
        common: str = "",
        brief: str = "",
        named: Callable[[str, Any], str] | None = None,
    ) -> T:
        """A field: its default, with its `Setting` as metadata; see there for the arguments."""
        if not usual and default not in ("", (), {}):
            usual = " ".join(default) if isinstance(default, tuple) else str(default)
        takers = (*self.verbs.split(), *verbs.split())
        kind = kind or type(default)
        told: dict[str, Any] = {"common": tuple(common.split()), "brief": brief, "named": named}
        about = Setting(self.name, metavar, help, default, kind, low, high, usual, takers, **told)
        start: dict[str, Any] = {"default_factory": default.copy} if isinstance(default, dict) else {"default": default}
        field: T = dataclasses.field(**start, metadata={"setting": about})
        return field


GROUPS = {  # in the order of the help
    "problem": Group("problem", "profile"),
    "search": Group("search"),
    "training": Group("training"),
    "run": Group("run"),
}


def settings_of(cls: Any) -> dict[str, Setting]:
    """The settings of a dataclass by name, in the order of their fields."""
    return {
        field.name: dataclasses.replace(field.metadata["setting"], name=field.name) for field in dataclasses.fields(cls)
    }


def named_of(name: str, value: Any, known: Mapping[str, Any] | None = None) -> str:
    """The name of a class, an instance or a function that was given for a setting.

    Args:
        name: Of the setting.
        value: A name, or what a name may stand for.
        known: Name to thing.

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(value, (str, Path)):
        return value if isinstance(value, str) else str(value)
    if not callable(value):
        raise ValueError(f"{name}: expected a name, a class, an instance or a function, got {value!r}")
    from objectives import named  # here, because --help need not wait for torch

    return named(value, known or {})


def _coerced(about: Setting, value: Any) -> Any:
    """`value` as a setting's kind, or a ValueError that says what was expected."""
    name = about.name
    found = about.named(name, value) if about.named is not None else _converted(name, about.kind, value)
    for text in found if isinstance(found, tuple) else (found,):
        if isinstance(text, str) and not text.isprintable():
            raise ValueError(f"{name}: must be one line of visible characters, got {text!r}")
    return found


def _converted(name: str, kind: Any, value: Any) -> Any:
    if kind is float and type(value) is int:
        return float(value) if abs(value) < 2**1023 else math.copysign(math.inf, value > 0 or -1)
    if kind == int | str:
        if isinstance(value, str) and value.isdecimal():
            return int(value)
        kind = str if isinstance(value, str) else int
    if kind is tuple:
        texts = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else (value,)
        if all(isinstance(text, str) for text in texts):
            return texts
        raise ValueError(f"{name}: expected one or more strings, got {value!r}")
    if kind is dict and isinstance(value, Mapping):
        return {key: as_read_back(name, key, item) for key, item in value.items()}
    if isinstance(value, Path) and kind is str:
        return str(value)
    if type(value) is not kind:
        raise ValueError(f"{name}: expected {WORDS[kind]}, got {value!r}")
    return value
