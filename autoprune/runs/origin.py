"""Where a search was started: relative paths in its settings mean that, wherever one stands later."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from autoprune.config import RunConfig, replace
from autoprune.data.load import FOLDERS
from autoprune.files import read_json, write_text

FILE = "origin.json"
_SQLITE = "sqlite:///"


def write_origin(scratch: Path, run: Path) -> None:
    """Keep the working directory, as seen from the run's: both may move together.

    Args:
        scratch: Where the file is written.
        run: Where it will be.
    """
    write_text(scratch / FILE, json.dumps({"directory": os.path.relpath(Path.cwd(), run.resolve())}))


def located(config: RunConfig, run: Path) -> RunConfig:
    """The settings of a run with relative paths as they are seen from here.

    Raises:
        ValueError: If the file that says where the search was started is damaged.
    """
    start = _start(run)
    if start == Path.cwd():
        return config

    def seen(text: str) -> str:
        return os.path.relpath(start / text) if (start / text).exists() else text

    return replace(config, **_moved({name: getattr(config, name) for name in _PATHS}, seen))


def kept(config: RunConfig, run: Path, settings: Mapping[str, Any]) -> RunConfig:
    """The settings of a run as they were written, with others given here; the inverse of `located`."""
    here, start = located(config, run), _start(run)
    new = {name: value for name, value in settings.items() if value != getattr(here, name)}
    return replace(config, **_moved(new, lambda text: os.path.relpath(text, start) if start != Path.cwd() else text))


def _start(run: Path) -> Path:
    """Where the search was started; here, if nobody knows."""
    path = run / FILE
    if not path.exists():
        return Path.cwd()
    try:
        said = read_json(path)["directory"]
        return Path(os.path.normpath(run.resolve() / said))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"'{path}': damaged ({error}); remove it, and resume from where the search began") from error


def _moved(settings: dict[str, Any], move: Callable[[str], str]) -> dict[str, Any]:
    """Settings with their relative paths moved."""
    return {name: _PATHS[name](value, move) if name in _PATHS else value for name, value in settings.items()}


def _file(text: str, move: Callable[[str], str]) -> str:
    return move(text) if text and not os.path.isabs(text) else text


def _folder(text: str, move: Callable[[str], str]) -> str:
    kind, colon, place = text.partition(":")
    return f"{kind}:{_file(place, move)}" if colon and kind in FOLDERS else text


def _database(text: str, move: Callable[[str], str]) -> str:
    return _SQLITE + _file(text.removeprefix(_SQLITE), move) if text.startswith(_SQLITE) else text


_PATHS: Mapping[str, Callable[[str, Callable[[str], str]], str]] = {
    "weights": _file, "data": _folder, "ledger": _database,
}  # fmt: skip
