"""Names to things: a known name, or `package.module:Name` for code from outside."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any


def find(kind: str, name: str, known: Mapping[str, Any]) -> Any:
    """The thing that `name` means.

    Args:
        kind: What is looked for, for the error ("cost", "metric").
        name: A key of `known`, or "package.module:Name".
        known: Name to thing.

    Raises:
        ValueError: If the name is unknown, or the module or the name in it does not exist.
    """
    if name in known:
        return known[name]
    module_name, colon, attribute = name.partition(":")
    if not colon:
        listed = f"known: {', '.join(sorted(known))}, or " if known else ""
        raise ValueError(f"unknown {kind} '{name}'; {listed}give package.module:Name")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:  # ValueError: an empty module name
        raise ValueError(f"{kind} '{name}': expected package.module:Name that can be imported, but {error}") from error
