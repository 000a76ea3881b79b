"""Names to things: a known name, or `package.module:Name` for code from outside; and who is to blame when it fails."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from objectives.given import Given, is_lost
from objectives.guard import admit


class PluginError(ValueError):
    """Code from outside went wrong; the message names it and says what it was doing."""


@contextmanager
def running(who: str, doing: str = "") -> Iterator[None]:
    """Turn whatever code from outside raises in the block, `sys.exit` included, into one sentence about it.

    Ctrl-C stays what it is.

    Args:
        who: The code, as the user named it: "metric 'mine:dice'".
        doing: What it was doing, e.g. "on the answers of 200 samples".

    Raises:
        PluginError: If the block raises.
    """
    try:
        yield
    except (PluginError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        raise PluginError(f"{who} failed {doing}".rstrip() + f" with {described(error)}") from error


def described(error: BaseException) -> str:
    """One line: the kind of error, its message, and the line of the user's code that it came from."""
    try:
        text = " ".join(str(error).split())[:300]
    except Exception:  # a message that cannot be made
        text = ""
    if isinstance(error, SystemExit):
        text = f"sys.exit({error.code!r}), which is for scripts: raise an exception instead"
    else:
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    return f"{text}{_place(error)}"


def _place(error: BaseException) -> str:
    """Where in the user's code it was raised: the innermost line that belongs to no library."""
    ours = [str(Path(__file__).parents[1] / package) for package in ("autoprune", "objectives", "search_spaces")]
    libraries = (sysconfig.get_paths()["stdlib"], "<frozen", *ours)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(libraries) and "-packages" not in frame.filename:
            return f" ({Path(frame.filename).name}:{frame.lineno})"
    return ""


def find(kind: str, name: str, known: Mapping[str, Any]) -> Any:
    """The thing that `name` means.

    Args:
        kind: What is looked for, for the error ("cost", "metric").
        name: A key of `known`, "package.module:Name", or an object that was given in Python (`Given`).
        known: Name to thing.

    Raises:
        ValueError: If the name is unknown, the object is not at hand, the module or the name in it does not exist or
            fails, or a guard forbids it.
    """
    if isinstance(name, Given):
        return name.thing
    if name in known:
        return known[name]
    if is_lost(name):
        raise ValueError(f"{kind} '{name}': was given as an object in Python, and nothing on disk says how to build "
                         f"it; in Python: give it again, e.g. autoprune.resume(run, {kind}=...)")  # fmt: skip
    module_name, colon, attribute = name.partition(":")
    if not colon:
        listed = f"known: {', '.join(sorted(known))}, or " if known else ""
        raise ValueError(f"unknown {kind} '{name}'{_meant(name, known)}; {listed}give package.module:Name")
    where = f"{kind} '{name}'"
    if module_name.endswith(".py") or "/" in module_name:
        dotted = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise ValueError(f"{where}: expected package.module:Name, found the path of a file; "
                         f"as a module it is {dotted}:{attribute}")  # fmt: skip
    expected = f"{where}: expected package.module:Name that can be imported, but"
    admit(kind, name)
    try:
        with running(where, f"while '{module_name}' was imported"):
            module = importlib.import_module(module_name)
    except PluginError as error:
        cause = error.__cause__
        absent = (isinstance(cause, ModuleNotFoundError) and cause.name) or ""
        if not f"{module_name}.".startswith(f"{absent}."):
            absent = ""
        if absent or module_name.startswith(".") or not module_name:
            meant = _meant(absent, _modules_beside(absent)) if absent else ""
            raise ValueError(f"{expected} {cause}{meant}") from cause
        raise
    try:
        with running(where):
            return getattr(module, attribute)
    except PluginError as error:
        meant = _meant(attribute, [each for each in dir(module) if not each.startswith("_")])
        raise ValueError(f"{expected} {error.__cause__}{meant}") from error.__cause__


def _meant(name: str, known: Iterable[str]) -> str:
    """A question whether the closest of the known names was meant; empty where none is close."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.75)
    return f" (did you mean {near[0]}?)" if near and near[0] != name else ""


def _modules_beside(absent: str) -> list[str]:
    """Full names of the modules that lie where one is missing; its package has been imported by then."""
    package = absent.rpartition(".")[0]
    places = getattr(sys.modules.get(package), "__path__", []) if package else None
    return [f"{package}.{found.name}".lstrip(".") for found in pkgutil.iter_modules(places)]
