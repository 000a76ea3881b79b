"""Floats of a network that notice a channel count on their right: `1.0 / x.shape[1]`, `self.gain * c`.

Python's floats read a whole number without asking it. While a network is traced, those written in its code and those in
the attributes of its modules are therefore `Literal`s, which ask (see counts.py).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import CellType, CodeType, FunctionType
from typing import Any

from torch import nn

from search_spaces.counts import ChannelCount, Size

ARITHMETIC = "add sub mul truediv floordiv mod divmod pow".split()
OPERATORS = [*ARITHMETIC, *(f"r{name}" for name in ARITHMETIC), *"neg pos abs eq ne lt le gt ge".split()]
FOREIGN = ("torch", "builtins", "search_spaces")  # no code of the network's


class Literal(float):
    """A float, and all that is worked out from it, that freezes the channels whose number it meets."""

    __hash__ = float.__hash__


def _asking(name: str) -> Callable[..., Any]:
    plainly: Callable[..., Any] = getattr(float, name)

    def method(self: float, *others: Any) -> Any:
        found = plainly(self, *(o.lose("arithmetic") if isinstance(o, (ChannelCount, Size)) else o for o in others))
        return Literal(found) if type(found) is float else found

    return method


for _name in OPERATORS:
    setattr(Literal, f"__{_name}__", _asking(f"__{_name}__"))


@contextmanager
def floats_asked(modules: Iterable[nn.Module]) -> Iterator[None]:
    """The floats of these modules, and those in the code that they run, are `Literal`s."""
    modules = list(modules)
    kinds = {kind for module in modules for kind in type(module).__mro__ if not _is_foreign(kind.__module__)}
    codes: list[tuple[FunctionType, CodeType]] = []
    attributes: list[tuple[nn.Module, str, float]] = []
    for function in _functions_run(kinds, modules):
        before, after = function.__code__, _with_literals(function.__code__)
        if after is not before:
            codes.append((function, before))
            function.__code__ = after
    for module in modules:
        if not _is_foreign(type(module).__module__):
            for name, value in vars(module).items():
                if type(value) is float:
                    attributes.append((module, name, value))
    for module, name, value in attributes:
        vars(module)[name] = Literal(value)
    try:
        yield
    finally:
        for function, before in codes:
            function.__code__ = before
        for module, name, value in attributes:
            if type(vars(module).get(name)) is Literal:  # else the network has changed it itself
                vars(module)[name] = value


def _is_foreign(module: str | None) -> bool:
    top = (module or "").partition(".")[0]
    return top in FOREIGN or top in sys.stdlib_module_names - {"__main__"}


def _functions_run(kinds: Iterable[type], modules: Iterable[nn.Module]) -> list[FunctionType]:
    """What `forward` of these classes can lead to: methods and functions by their names, what decorators hold."""
    named = [vars(owner) for owner in (*kinds, *modules)]
    stack: list[Any] = [vars(kind).get("forward") for kind in kinds]
    stack += [value for module in modules for value in vars(module).values() if isinstance(value, FunctionType)]
    found: dict[int, FunctionType] = {}
    seen: set[str] = set()
    while stack:
        value = stack.pop()
        value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if not isinstance(value, FunctionType) or id(value) in found or _is_foreign(value.__module__):
            continue
        found[id(value)] = value
        names = set(_names_in(value.__code__))
        stack += [value.__globals__.get(name) for name in names]
        stack += [owner[name] for name in names - seen for owner in named if name in owner]
        seen |= names
        stack += [cell.cell_contents for cell in value.__closure__ or () if cell != CellType()]
    return list(found.values())


def _names_in(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)


def _with_literals(code: CodeType) -> CodeType:
    """The code with its floats exchanged, those of the functions within it, too; itself where there are none."""
    constants = tuple(
        Literal(c) if type(c) is float else _with_literals(c) if isinstance(c, CodeType) else c for c in code.co_consts
    )
    same = all(new is old for new, old in zip(constants, code.co_consts, strict=True))
    return code if same else code.replace(co_consts=constants)
