"""What reads a whole number without asking it (`math.sqrt`, `np.arange`, `range`, `Decimal` ...), and asks in a trace.

While a network is traced, stand-ins take their place that ask every channel count they are given. Caches are left out,
too: one would hand a layer the sizes counted in another, or in another network. (What Python does by itself, such as
`table[c]` or `float("0.5") * c`, is not seen, nor `decimal.Decimal(c)` where the module is named; `verify` notices.)
"""

from __future__ import annotations

import array
import builtins
import decimal
import functools
import itertools
import json
import math
import operator
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from search_spaces.counts import ChannelCount, Size
from search_spaces.tracing.literals import asking

NUMPY = "sqrt log log2 log10 exp power prod arange linspace ceil floor cbrt reciprocal".split()
NUMPY += "zeros ones full empty eye identity tri".split()
LIBRARIES = {"torch", "torchgen", "sympy", "scipy", "numpy", "search_spaces"}  # they keep no sizes of networks
LEGACY: Any = type(torch.IntTensor)  # of the types of tensors by their kind of number
READERS: tuple[tuple[Any, list[str]], ...] = (
    (math, [name for name, f in vars(math).items() if callable(f) and not name.startswith("_") and f is not math.prod]),
    (np, NUMPY),
    (builtins, ["range"]),
    (operator, ["index"]),
    (itertools, ["islice", "repeat"]),
    (decimal, ["Decimal"]),
    (array, ["array"]),
    (struct, ["pack"]),
    (json, ["dumps"]),
    (torch, [name for name, kind in vars(torch).items() if type(kind) is LEGACY]),  # torch.IntTensor([c])
)


_PROD, _RANGE = np.prod, range


@contextmanager
def counts_seen() -> Iterator[None]:
    """Channel counts are seen wherever they go, in all modules that are loaded."""
    with _exchanged(_functions()):
        yield


class StandIn(type):
    """Class of what stands for a type: what that makes is of the type itself, of numbers that have been asked."""

    _kind: type

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """An object of the type."""
        if (kind := vars(cls).get("_kind")) is None:  # the network's own subclass
            return super().__call__(*args, **kwargs)
        if kind is _RANGE:  # there are many
            return _RANGE(*[_lost(a, "range()") if type(a) is not int else a for a in args])
        return _asked(kind, args, kwargs)

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, vars(cls).get("_kind", ())) or super().__instancecheck__(value)

    def __subclasscheck__(cls, kind: type) -> bool:
        return issubclass(kind, vars(cls).get("_kind", ())) or super().__subclasscheck__(kind)

    def __getattr__(cls, name: str) -> Any:
        return getattr(cls._kind, name)

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is vars(cls).get("_kind", cls)

    def __hash__(cls) -> int:
        return hash(vars(cls)["_kind"]) if "_kind" in vars(cls) else super().__hash__()

    def __or__(cls, other: Any) -> Any:
        return cls._kind | other

    def __ror__(cls, other: Any) -> Any:
        return other | cls._kind


def standing_for(kind: type) -> StandIn:
    """A type, as `match` asks of what it compares with; a subclass where there may be one.

    Those of tensors are known to `x.type(kind)` by their full names.
    """
    if type(kind) is LEGACY:
        return StandIn(f"torch.{kind.__name__}", (), {"_kind": kind})
    try:
        return StandIn(kind.__name__, (kind,), {"_kind": kind})
    except TypeError:
        return StandIn(kind.__name__, (), {"_kind": kind})


@functools.cache
def _functions() -> dict[int, tuple[Any, Any]]:
    """The id of what reads numbers unasked -> (it, what stands in for it)."""
    originals = [getattr(owner, name) for owner, names in READERS for name in names]
    found = {id(f): (f, standing_for(f) if isinstance(f, type) else _asking(f)) for f in originals}
    found[id(_PROD)] = _PROD, _product
    return found


def _asking(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, at the price of freezing the channels whose number it is given."""

    @functools.wraps(function, updated=())
    def asked(*args: Any, **kwargs: Any) -> Any:
        return _asked(function, args, kwargs)

    return asked


def _asked(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    what = f"{getattr(function, '__name__', 'a function')}()"
    return asking(function(*(_lost(a, what) for a in args), **{k: _lost(v, what) for k, v in kwargs.items()}))


def _lost(value: Any, what: str) -> Any:
    if isinstance(value, (ChannelCount, Size)):
        return value.lose(what)
    return type(value)(_lost(v, what) for v in value) if type(value) in (tuple, list, torch.Size) else value


def _product(values: Any, *args: Any, **kwargs: Any) -> Any:
    """`np.prod`; of whole numbers that count, one that counts, as `math.prod` makes it."""
    if not args and not kwargs and type(values) in (tuple, list, torch.Size):
        counts = any(isinstance(v, (ChannelCount, Size)) for v in values)
        if counts and all(isinstance(v, int) for v in values):
            return math.prod(values)
    return _asked(_PROD, (values, *args), kwargs)


# In the network's own code only: what is imported meanwhile may keep what it finds.
KINDS: dict[str, Any] = {kind.__name__: standing_for(kind) for kind in (bytes, bytearray)}
KINDS |= {function.__name__: _asking(function) for function in (bin, oct, hex, chr)}
EVERYWHERE = (math, np, builtins, torch)


@contextmanager
def _exchanged(functions: dict[int, tuple[Any, Any]]) -> Iterator[None]:
    """In all loaded modules, put stand-ins in the place of functions, and functions in the place of their caches."""
    places: list[tuple[Any, str, Any]] = []
    cached = functools._lru_cache_wrapper

    def exchange(owner: Any, name: str, value: Any) -> None:
        places.append((owner, name, value))
        setattr(owner, name, value.__wrapped__ if type(value) is cached else functions[id(value)][1])

    try:
        for module_name, module in list(sys.modules.items()):
            top = module_name.partition(".")[0]
            if isinstance(module, type(sys)) and top not in LIBRARIES and top not in sys.stdlib_module_names:
                for place in _places(module, functions):
                    exchange(*place)
        for owner, names in READERS:
            for name in names if owner in EVERYWHERE else ():
                if id(value := getattr(owner, name)) in functions:
                    exchange(owner, name, value)
        yield
    finally:
        for owner, name, value in reversed(places):
            setattr(owner, name, value)


_known: WeakKeyDictionary[ModuleType, tuple[int, list[tuple[Any, str, Any]]]] = WeakKeyDictionary()


def _places(module: ModuleType, functions: dict[int, tuple[Any, Any]]) -> list[tuple[Any, str, Any]]:
    """Owner, name and value of what is to be exchanged in a module; looked for again once it holds something else."""
    holds = vars(module)
    state = hash(tuple(map(id, holds.values())))
    known = _known.get(module)
    if known is not None and known[0] == state:
        return known[1]
    found: list[tuple[Any, str, Any]] = []
    cached = functools._lru_cache_wrapper
    for name, value in list(holds.items()):
        if type(value) is cached or id(value) in functions:
            found.append((module, name, value))
        elif isinstance(value, type) and value.__module__ == module.__name__:
            found += [(value, inner, v) for inner, v in list(vars(value).items()) if type(v) is cached]
    _known[module] = state, found
    return found
