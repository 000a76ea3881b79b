"""Settings as TOML, and back; TOML has no None and no tuples."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

import tomli_w

from autoprune.files import read_text


def read(path: str | Path) -> dict[str, Any]:
    """The settings in a TOML file; names may be spelt like the flags.

    Raises:
        ValueError: If there is no such file or it is not TOML.
    """
    try:
        data = tomllib.loads(read_text(Path(path)))
    except OSError as error:
        raise ValueError(f"configuration '{path}': unreadable ({error.strerror}); expected a TOML file") from error
    except (ValueError, RecursionError) as error:  # no TOML, no UTF-8, a number of 5,000 digits
        raise ValueError(f"configuration '{path}': not valid TOML: {error}") from error
    return {key.replace("-", "_"): value for key, value in data.items()}


def written(settings: Mapping[str, Any]) -> str:
    """Settings as the text of a TOML file."""
    plain = {name: _to_toml(value) for name, value in settings.items()}
    tables = {name: value for name, value in plain.items() if isinstance(value, dict)}  # TOML: tables come last
    return tomli_w.dumps({**{name: value for name, value in plain.items() if name not in tables}, **tables})


def as_read_back(name: str, key: str, value: Any) -> Any:
    """A keyword argument as it comes back from a TOML file: the word "None" is None, a tuple is a list.

    Raises:
        ValueError: If it cannot be written.
    """
    try:
        text = tomli_w.dumps({key: _to_toml(value)})
    except (TypeError, AttributeError) as error:
        raise ValueError(
            f"{name}: {key}={value!r} cannot be written to the run's config.toml; give numbers, strings, true or "
            "false, None, lists or tables, or a factory of your own that makes the rest"
        ) from error
    return _from_toml(tomllib.loads(text)[key])


def _to_toml(value: Any) -> Any:
    """None is written as the word, as on the command line."""
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
