"""`Given`: a class, an instance or a function that was given in Python, under a name by which it can be kept."""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PREFIX = "object:"  # no module has this name


class Given(str):
    """The name of a thing that no file can say how to build, and the thing itself.

    It is a string wherever names are kept, shown or compared; `find` gives the thing.

    Attributes:
        thing: What was given.
    """

    thing: Any

    def __new__(cls, thing: Any) -> Given:
        """The name of a thing is made of what it is and what it holds."""
        return _again(f"{PREFIX}{_title(thing)}{_digest(thing)}", thing)

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (str(self), self.thing)


def named(thing: Any, known: Mapping[str, Any]) -> str:
    """The name of a thing: the one it is known by here, "package.module:Name" if that finds it again, else `Given`.

    Args:
        thing: A class, an instance or a function.
        known: Name to thing.
    """
    for name, other in known.items():
        if other is thing:
            return name
    return _place(thing) or Given(thing)


def is_lost(name: str) -> bool:
    """Whether this is the name of an object that was given to another process, and has not been given to this one."""
    return name.startswith(PREFIX) and not isinstance(name, Given)


@contextmanager
def offering(names: Mapping[str, str]) -> Iterator[None]:
    """In the block these stand for what a run was begun with: by kind ("metric") a name, or an object in its name."""
    token = _offered.set(names)
    try:
        yield
    finally:
        _offered.reset(token)


def offered(kind: str, name: str) -> str:
    """The same name, with the object that it stands for if that is offered.

    Raises:
        ValueError: If another one is.
    """
    here = _offered.get().get(kind, name)
    if here != name:
        raise ValueError(
            f"{kind}: this run was begun with '{name}', but '{here}' is given; give the same, or leave it out"
        )
    return here


_offered: ContextVar[Mapping[str, str]] = ContextVar("offered", default={})  # noqa: B039  (never changed)


def _again(name: str, thing: Any) -> Given:
    made = str.__new__(Given, name)
    made.thing = thing
    return made


def _title(thing: Any) -> str:
    """The qualified name of a class or a function, or of an instance's class."""
    while isinstance(thing, functools.partial):
        thing = thing.func
    of = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{of.__module__}.{of.__qualname__}"


def _place(thing: Any) -> str:
    """The "package.module:Name" that finds the very same thing; empty if none does."""
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if module not in sys.modules or module in ("__main__", "__mp_main__") or not name:
        return ""
    return f"{module}:{name}" if vars(sys.modules[module]).get(name) is thing else ""


def _digest(thing: Any) -> str:
    """A short hash of its code, where no name finds it, and of what it holds or has been bound to."""
    state = _state(thing)
    if not state:
        return ""
    digest = hashlib.sha256()
    _feed(digest.update, state, [])
    return f"#{digest.hexdigest()[:8]}"


def _state(thing: Any) -> Any:
    """What tells a thing from another of the same title."""
    if _place(thing):
        return {}
    if isinstance(thing, type):
        return {name: part for name, part in vars(thing).items() if hasattr(part, "__code__")}
    if isinstance(thing, functools.partial):
        return {"of": thing.func, "args": thing.args, "keywords": thing.keywords}
    if hasattr(thing, "__code__"):
        cells = [cell.cell_contents for cell in thing.__closure__ or ()]
        return {"code": thing.__code__, "bound": [thing.__defaults__, thing.__kwdefaults__, cells]}
    return {**getattr(thing, "__dict__", {}), "class": type(thing)}


def _feed(update: Callable[[bytes], object], value: Any, inside: list[int]) -> None:
    """Hash a value by what it is and what it holds, the same in every process."""
    update(type(value).__qualname__.encode())
    if id(value) in inside:
        return
    inside = [*inside, id(value)]
    if isinstance(value, (str, bytes, int, float, complex, type(None))):
        update(repr(value).encode())
    elif isinstance(value, Tensor):
        update(f"{value.dtype} {tuple(value.shape)}".encode())
        update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        update(f"{value.dtype} {value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            _feed(update, key, inside)
            _feed(update, value[key], inside)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _feed(update, item, inside)
    elif isinstance(value, (set, frozenset)):
        update(repr(sorted(map(repr, value))).encode())
    elif isinstance(value, nn.Module):
        _feed(update, value.state_dict(), inside)
    elif isinstance(value, CodeType):
        for part in (value.co_code, value.co_names, value.co_consts):
            _feed(update, part, inside)
    else:
        shown = repr(value)
        update(f"{_title(value)} {'' if ' at 0x' in shown else shown}".encode())
        _feed(update, _state(value), inside)
