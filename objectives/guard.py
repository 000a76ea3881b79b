"""What stands between a name and its import: a guard that may forbid it, and where code from outside lies."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

Guard = Callable[[str, str], None]  # (kind, name) -> raises a ValueError if that must not be imported
INSTALLED = frozenset({"autoprune", "objectives", "search_spaces", "torch", "torchvision", "timm"})
_guard: ContextVar[Guard | None] = ContextVar("guard", default=None)
_places: list[str] = []


def admit(kind: str, name: str) -> None:
    """Called before the module of "package.module:Name" is imported; from now on it may lie in the places of `look_in`.

    Raises:
        ValueError: If a guard forbids it.
    """
    if guard := _guard.get():
        guard(kind, name)
    if name.partition(":")[0].partition(".")[0] not in INSTALLED:
        sys.path[:0] = [place for place in _places if place not in sys.path]


def look_in(folder: str) -> None:
    """Also look for code from outside in this folder, from the first such name on.

    Not earlier: whatever happens to lie there must not take the place of a package that is imported before, or of an
    optional one that is not installed.
    """
    _places[:] = [folder]


@contextmanager
def guarded(guard: Guard) -> Iterator[None]:
    """In the block no code from outside is imported that the guard does not let pass."""
    token = _guard.set(guard)
    try:
        yield
    finally:
        _guard.reset(token)


def may_find(kind: str, name: str) -> bool:
    """Whether a guard, if there is one, lets this name pass."""
    guard = _guard.get()
    try:
        if guard and ":" in name:
            guard(kind, name)
    except ValueError:
        return False
    return True


def origin(module: str) -> str:
    """The file (or folder) that a module's package would be imported from, or was; nothing is imported.

    Returns:
        Its path; "" for a package of ours or one that we depend on, and for what is not there.
    """
    top = module.partition(".")[0]
    if not top or top in INSTALLED:
        return ""
    spec: ModuleSpec | None
    if top in sys.modules:
        loaded = sys.modules[top]
        spec, file = getattr(loaded, "__spec__", None), getattr(loaded, "__file__", None)
        if file:
            return str(Path(file).resolve())
    else:
        spec = PathFinder.find_spec(top, [*_places, *sys.path])
    if spec is None:
        return ""
    places = [spec.origin] if spec.has_location and spec.origin else list(spec.submodule_search_locations or ())
    return ";".join(str(Path(place).resolve()) for place in places)
