"""Packages that are not installed here, as empty shells: to import them goes on, to use them says what is missing.

A machine that is lent for minutes may have torch and no network. What of this repository is measured there needs few of
the other packages; the rest imports them only.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

NEEDED = (
    "torchvision", "optuna", "cmaes", "pandas", "scipy", "sklearn", "safetensors", "rich", "shtab", "tomli_w",
    "packaging", "typing_extensions",
)  # fmt: skip


class _Kind(type):
    """Of all that a missing package might have: classes, which can be subclassed, and have whatever is asked for."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _made(f"{cls.__qualname__}.{name}")

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        raise ImportError(f"{cls.__qualname__} is not installed here")


_known: dict[str, Any] = {}


def _made(name: str) -> Any:
    return _known.setdefault(name, _Kind(name, (), {}))


class Shell(ModuleType):
    """A package or module that is missing."""

    IS_MISSING = True
    __path__: Sequence[str] = ()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _made(f"{self.__name__}.{name}")


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds shells.

    Args:
        names: Of packages that are missing.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = {*names}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        if name.partition(".")[0] not in self._names:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """See `importlib.abc.Loader`."""
        return Shell(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """See `importlib.abc.Loader`."""


def stand_in(needed: Sequence[str] = NEEDED) -> tuple[str, ...]:
    """Put shells in the place of those that are missing; their names."""
    missing = tuple(name for name in needed if importlib.util.find_spec(name) is None)
    if missing:
        sys.meta_path.append(Finder(missing))
    return missing
