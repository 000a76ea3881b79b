"""Whether what a run or a configuration file names may be imported, run or connected to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from autoprune.config import RunConfig
from autoprune.config.calls import calls_of
from autoprune.runs.directory import RunDirectory
from autoprune.trust import Call, remember, require


def allow(run: RunDirectory, trust: bool, given: Iterable[str] = (), model: object = None, data: object = None) -> None:
    """Check that everything that a run names may be called.

    Args:
        run: Whose settings, the changed ones among them.
        trust: Whatever it is, it may, and is remembered.
        given: Settings that the user gives now: what they name is the user's own word, and remembered.
        model: Given as an object, so that no factory is called.
        data: Likewise.

    Raises:
        NotTrusted: Naming what would be called.
    """
    objects = {name for name, value in (("model", model), ("data", data)) if value is not None}
    calls = [*calls_of(run.config), *_links_of(run.path)]
    _allow([c for c in calls if not objects & {*c.settings}], f"run '{run.path}'", given, trust)


def _links_of(run: Path) -> list[Call]:
    """What of a run lies elsewhere: who writes it would write there."""
    home = run.resolve()
    links = sorted(path for path in home.iterdir() if path.is_symlink() and home not in path.resolve().parents)
    return [Call("link", f"{path.name} -> {path.resolve()}", settings=("",)) for path in links]


def allow_named(run: RunDirectory, given: Iterable[str]) -> None:
    """Remember what the user gives now; nothing else of the run is called."""
    remember(c for c in calls_of(run.config) if {*given} & {*c.settings})


def allow_file(path: str, said: Mapping[str, Any], flags: Mapping[str, Any], trust: bool) -> None:
    """Check that everything that a configuration file names may be called.

    Args:
        path: The file.
        said: The settings in it.
        flags: Those that the user gives now and that win: the user's own word.
        trust: Whatever it is, it may, and is remembered.

    Raises:
        NotTrusted: Naming what would be called.
        ValueError: If the settings make no configuration.
    """
    _allow(calls_of(RunConfig.make(**{**said, **flags})), f"configuration '{path}'", flags, trust)


def _allow(calls: Iterable[Call], where: str, given: Iterable[str], trust: bool) -> None:
    """A call is the user's own word if its name and its arguments, if any, are given."""
    calls, given = tuple(calls), {*given}
    own = [c for c in calls if c.settings[0] in given and (not c.args or c.settings[-1] in given)]
    require((c for c in calls if c not in own), where, trust)
    remember(own)
