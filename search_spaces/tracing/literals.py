"""Floats of a network that notice a channel count on their right: `1.0 / x.shape[1]`, `self.gain * c`, `GAIN / c`.

Python's floats and its `Decimal`s read a whole number without asking it. While a network is traced, those that its code
can meet are therefore `Literal`s, which ask (see counts.py): constants of the code and its defaults, of modules
(Python's, and their attributes), classes and closures. (Those of `float("0.5")` are not seen; `verify` notices.)
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from decimal import Decimal
from types import CellType, CodeType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn

from search_spaces.counts import ChannelCount, Size

ARITHMETIC = "add sub mul truediv floordiv mod divmod pow".split()
COMPARISONS = "eq ne lt le gt ge".split()
OPERATORS = [*ARITHMETIC, *(f"r{name}" for name in ARITHMETIC), *"neg pos abs".split(), *COMPARISONS]
TORCHS = frozenset(vars(nn.Module()))  # attributes of a module
MOST = 1000  # numbers in a list or dictionary that is looked into: more are data
CONSTANTS = ("math", "numpy")  # where a network's code may find some
FOREIGN = ("torch", "builtins", "search_spaces")  # no code of the network's
ASKED_BACK = [f"__{name}__" for name in COMPARISONS]


class Literal(float):
    """A float, and all that is worked out from it, that freezes the channels whose number it meets."""

    __hash__ = float.__hash__


class DecimalLiteral(Decimal):
    """The same of a decimal number."""

    __hash__ = Decimal.__hash__


LITERALS: dict[type, Any] = {float: Literal, Decimal: DecimalLiteral}


def _asking(kind: type, name: str) -> Callable[..., Any]:
    plainly: Callable[..., Any] = getattr(kind, name)

    def method(self: Any, *others: Any) -> Any:
        if name in ASKED_BACK and isinstance(others[0], (ChannelCount, Size)):
            return NotImplemented  # so that Python asks the count
        found = plainly(self, *(o.lose("arithmetic") if isinstance(o, (ChannelCount, Size)) else o for o in others))
        return LITERALS[kind](found) if type(found) is kind else found

    return method


for _kind, _literal in LITERALS.items():
    for _name in OPERATORS:
        setattr(_literal, f"__{_name}__", _asking(_kind, f"__{_name}__"))


@contextmanager
def floats_asked(modules: Iterable[nn.Module], stand_ins: Mapping[str, Any] = MappingProxyType({})) -> Iterator[None]:
    """The floats of these modules, and those that the code they run can read, are `Literal`s.

    Args:
        modules: Of the network.
        stand_ins: What their code finds under the names of types that Python has built in.
    """
    modules = list(modules)
    kinds = {kind for module in modules for kind in type(module).__mro__ if not _is_foreign(kind.__module__)}
    own = [module for module in modules if not _is_foreign(type(module).__module__)]
    with ExitStack() as undo:
        for function in _functions_run(kinds, modules):
            _exchange_in_code(function, undo)
            for name in stand_ins.keys() & set(_names_in(function.__code__)) - function.__globals__.keys():
                function.__globals__[name] = stand_ins[name]
                undo.callback(function.__globals__.pop, name, None)
        for owner in (*own, *_settings_of(own)):
            for name in vars(owner).keys() - TORCHS:
                _exchange(vars(owner), name, undo)
        for kind in kinds:
            for name in list(vars(kind)):
                _exchange(_ClassTable(kind), name, undo)
        yield


def asking(value: Any) -> Any:
    """A float as a `Literal`, also in a tuple; anything else as it is."""
    if (literal := LITERALS.get(type(value))) is not None:
        return literal(value)
    if type(value) is tuple:
        parts = tuple(map(asking, value))
        return value if all(map(operator.is_, parts, value)) else parts
    return value


def _exchange(table: Any, key: Any, undo: ExitStack, depth: int = 3) -> None:
    """Have what stands there ask; a list or dictionary stays the same object, with others in it to some depth."""
    value = table[key]
    if isinstance(value, (list, dict)):
        if depth and len(value) <= MOST:
            for inner in list(dict.keys(value)) if isinstance(value, dict) else range(len(value)):
                _exchange(_Items(value), inner, undo, depth - 1)
    elif (new := asking(value)) is not value:
        table[key] = new
        undo.callback(_put_back, table, key, new, value)


def _put_back(table: Any, key: Any, new: Any, before: Any) -> None:
    with suppress(LookupError):
        if table[key] is new:  # else the network has changed it itself
            table[key] = before


class _Items:
    """What a list or dictionary holds, whatever its class makes of that (settings that are frozen, say)."""

    def __init__(self, owner: Any) -> None:
        self._owner, self._kind = owner, dict if isinstance(owner, dict) else list

    def __getitem__(self, key: Any) -> Any:
        return self._kind.__getitem__(self._owner, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._kind.__setitem__(self._owner, key, value)


class _ClassTable:
    """The attributes of a class, like a dictionary."""

    def __init__(self, kind: type) -> None:
        self._kind = kind

    def __getitem__(self, name: str) -> Any:
        return vars(self._kind)[name]

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self._kind, name, value)


class _Cell:
    """What a closure keeps, like a table of one."""

    def __init__(self, cell: CellType) -> None:
        self._cell = cell

    def __getitem__(self, _: int) -> Any:
        return self._cell.cell_contents

    def __setitem__(self, _: int, value: Any) -> None:
        self._cell.cell_contents = value


def _exchange_in_code(function: FunctionType, undo: ExitStack) -> None:
    """The floats of a function: in its code, its defaults, its closure, and in the Python modules that it names."""
    for name in ("__code__", "__defaults__"):
        before = getattr(function, name)
        after = _with_literals(before) if name == "__code__" else asking(before)
        if after is not before:
            setattr(function, name, after)
            undo.callback(setattr, function, name, before)
    for name in function.__kwdefaults__ or ():
        _exchange(function.__kwdefaults__, name, undo)
    for cell in function.__closure__ or ():
        if cell != CellType():
            _exchange(_Cell(cell), 0, undo)
    names = set(_names_in(function.__code__))
    globals_ = function.__globals__
    for name in names & globals_.keys():
        value = globals_[name]
        if isinstance(value, ModuleType) and (value.__name__ in CONSTANTS or not _is_foreign(value.__name__)):
            for inner in names & vars(value).keys():
                _exchange(vars(value), inner, undo)
        else:
            _exchange(globals_, name, undo)


def _settings_of(modules: Iterable[nn.Module]) -> list[Any]:
    """Objects in attributes that only hold settings (`self.config`)."""
    values = {id(v): v for module in modules for v in vars(module).values() if hasattr(v, "__dict__")}
    closed = (nn.Module, type, ModuleType, FunctionType, torch.Tensor)
    return [v for v in values.values() if not isinstance(v, closed) and not callable(v)]


def _is_foreign(module: str | None) -> bool:
    top = (module or "").partition(".")[0]
    return top in FOREIGN or top in sys.stdlib_module_names - {"__main__"}


def _functions_run(kinds: Iterable[type], modules: Iterable[nn.Module]) -> list[FunctionType]:
    """What `forward` of these classes can lead to: methods, functions and autograd functions, by their names.

    What decorators hold is among them.
    """
    named = [vars(owner) for owner in (*kinds, *modules)]
    stack: list[Any] = [vars(kind).get("forward") for kind in kinds]
    stack += [value for module in modules for value in vars(module).values() if isinstance(value, FunctionType)]
    found: dict[int, FunctionType] = {}
    seen: set[str] = set()
    while stack:
        value = stack.pop()
        value = value.fget if isinstance(value, property) else value
        if isinstance(value, type) and issubclass(value, torch.autograd.Function):
            stack += [] if _is_foreign(value.__module__) else vars(value).values()
        value = value.__func__ if isinstance(value, (classmethod, staticmethod, MethodType)) else value
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
    constants = tuple(_with_literals(c) if isinstance(c, CodeType) else asking(c) for c in code.co_consts)
    same = all(new is old for new, old in zip(constants, code.co_consts, strict=True))
    return code if same else code.replace(co_consts=constants)
