"""What is exchanged while a network is traced, so that channel counts are seen wherever they go.

Caches are left out (one would hand a layer the sizes counted in another, or in another network), functions that read
a number without asking it say so, and size attributes of layers that will shrink are counts.
"""

from __future__ import annotations

import builtins
import functools
import math
import operator
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from search_spaces.contents import kept_in, tensors_in
from search_spaces.counts import Attribute, ChannelCount, Size, plain
from search_spaces.graph import MADE_BY
from search_spaces.literals import Literal, asking, floats_asked
from search_spaces.recorder import ATTRIBUTE, Recorder

NUMPY = "sqrt log log2 log10 exp power prod arange linspace ceil floor cbrt reciprocal".split()
NUMPY += "zeros ones full empty eye identity tri".split()
REGULARISERS = ("torch.nn.modules.", "torchvision.ops.", "timm.layers.drop")  # what they drop is no channel's own
LIBRARIES = {"torch", "torchgen", "sympy", "scipy", "numpy", "search_spaces"}  # they keep no sizes of networks


@contextmanager
def counts_seen() -> Iterator[None]:
    """Channel counts are seen wherever they go, in all modules that are loaded."""
    with _exchanged(_functions()):
        yield


@contextmanager
def watched(rec: Recorder) -> Iterator[None]:
    """The same of the attributes of one network."""
    with ExitStack() as stack:
        stack.enter_context(_counted_attributes(rec))
        stack.enter_context(_sizes_in_attributes(rec))
        stack.enter_context(floats_asked(rec.modules.values()))
        stack.enter_context(modes_read(partial(setattr, rec, "asks_mode", True)))
        yield


@functools.cache
def _functions() -> dict[int, tuple[Any, Any]]:
    """The id of a function that reads numbers unasked -> (it, what stands in for it)."""
    originals = [f for name, f in vars(math).items() if callable(f) and not name.startswith("_") and f is not math.prod]
    originals += [getattr(np, name) for name in NUMPY]
    return {id(f): (f, _asking(f)) for f in originals} | {id(range): (range, _Range)}


def _asking(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, at the price of freezing the channels whose number it is given."""

    @functools.wraps(function, updated=())
    def asked(*args: Any, **kwargs: Any) -> Any:
        what = f"{getattr(function, '__name__', 'a function')}()"
        return asking(function(*(_lost(a, what) for a in args), **{k: _lost(v, what) for k, v in kwargs.items()}))

    return asked


def _lost(value: Any, what: str) -> Any:
    if isinstance(value, (ChannelCount, Size)):
        return value.lose(what)
    return type(value)(_lost(v, what) for v in value) if type(value) in (tuple, list, torch.Size) else value


class _IsRange(type):
    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, _RANGE)


_RANGE = range


class _Range(metaclass=_IsRange):
    """`range` that asks the numbers it is given."""

    def __new__(cls, *args: Any) -> Any:
        return _RANGE(*(_lost(a, "range()") for a in args))


@contextmanager
def _exchanged(functions: dict[int, tuple[Any, Any]]) -> Iterator[None]:
    """In all loaded modules, put stand-ins in the place of functions, and functions in the place of their caches."""
    places: list[tuple[Any, str, Any]] = []
    cached = functools._lru_cache_wrapper

    def exchange(owner: Any, name: str, value: Any) -> None:
        places.append((owner, name, value))
        setattr(owner, name, value.__wrapped__ if type(value) is cached else functions[id(value)][1])

    for module_name, module in list(sys.modules.items()):
        top = module_name.partition(".")[0]
        if isinstance(module, type(sys)) and top not in LIBRARIES and top not in sys.stdlib_module_names:
            for place in _places(module, functions):
                exchange(*place)
    for owner, names in ((math, list(vars(math))), (np, NUMPY), (builtins, ["range"])):
        for name in names:
            if id(value := getattr(owner, name)) in functions:
                exchange(owner, name, value)
    try:
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


# Layer -> its size attributes, each with the axis of its weight that it counts. Surgery changes the same ones.
SIZES: tuple[tuple[type[nn.Module], tuple[tuple[str, int], ...]], ...] = (
    (nn.modules.conv._ConvTransposeNd, (("in_channels", 0), ("out_channels", 1))),
    (_ConvNd, (("out_channels", 0), ("in_channels", 1))),
    (nn.Linear, (("out_features", 0), ("in_features", 1))),
    (_NormBase, (("num_features", 0),)),
    (nn.GroupNorm, (("num_channels", 0),)),
    (nn.Embedding, (("embedding_dim", 1),)),
)


LAYERS = (*(kind for kind, _ in SIZES), nn.LayerNorm, nn.RMSNorm)  # their other numbers are none of channels


@contextmanager
def _counted_attributes(rec: Recorder) -> Iterator[None]:
    """`conv.out_channels` read by the network's own code is a count of the layer's channels."""
    for kind, sizes in SIZES:
        for attribute, axis in sizes:
            setattr(kind, attribute, _counted_attribute(rec, attribute, axis))
    try:
        yield
    finally:
        for kind, sizes in SIZES:
            for attribute, _ in sizes:
                delattr(kind, attribute)


def _counted_attribute(rec: Recorder, name: str, axis: int) -> property:
    """A size of a layer that becomes a count once it is read."""

    def read(module: nn.Module) -> Any:
        try:
            value = vars(module)[name]
        except KeyError:
            raise AttributeError(f"'{type(module).__name__}' object has no attribute '{name}'") from None
        weight = vars(module).get("_parameters", {}).get("weight")
        if weight is None or id(weight) not in rec.names or type(value) is not int:
            return value  # its weight is computed
        with torch._C.DisableTorchFunction():  # this look at shapes is not the model's
            return rec.size(weight, axis) if value == weight.shape[axis] else value  # another one: it has groups

    def write(module: nn.Module, value: Any) -> None:
        vars(module)[name] = value

    return property(read, write)


@contextmanager
def _sizes_in_attributes(rec: Recorder) -> Iterator[None]:
    """`self.num_heads` of a module of the network's own is a size that may follow channels; lists of sizes likewise."""
    before: list[tuple[nn.Module, str, Any, Any]] = []
    for path, module in rec.modules.items():
        if type(module).__module__.startswith("torch.") or isinstance(module, LAYERS):
            continue
        for name, value in list(vars(module).items()):
            sized = _sized(value, Attribute(path, name), rec)
            if sized is not value:
                before.append((module, name, value, sized))
                module.__dict__[name] = sized
    try:
        yield
    finally:
        for module, name, value, sized in before:
            if vars(module).get(name) is sized:  # else the network has changed it itself
                module.__dict__[name] = value


@contextmanager
def modes_read(note: Callable[[], None]) -> Iterator[None]:
    """Note whether the network's own code asks if it is in training: if not, it does the same there."""

    def read(module: nn.Module) -> bool:
        if not type(module).__module__.startswith(REGULARISERS):
            note()
        mode: bool = vars(module)["training"]
        return mode

    def write(module: nn.Module, mode: bool) -> None:
        vars(module)["training"] = mode

    nn.Module.training = property(read, write)  # type: ignore[assignment]
    try:
        yield
    finally:
        del nn.Module.training


def _sized(value: Any, attribute: Attribute, rec: Recorder) -> Any:
    if type(value) is int and value > 0:
        return Size.of(value, ((attribute, 1),), rec)
    if type(value) in (list, tuple) and value and all(type(v) is int for v in value):
        items = [_sized(v, replace(attribute, item=i), rec) for i, v in enumerate(value)]
        return type(value)(items) if any(isinstance(v, Size) for v in items) else value
    return value


def forget_counts(model: nn.Module) -> None:
    """Make the counts, and the floats that ask, that modules have kept in their attributes plain numbers again.

    Tensors there forget what they carried, also those that were copied unseen.
    """
    for module in model.modules():
        for name, value in kept_in(module).items():
            for tensor in tensors_in(value):
                vars(tensor).pop(ATTRIBUTE, None)
                vars(tensor).pop(MADE_BY, None)
            kept = _plainly(value)
            if kept is not value:
                module.__dict__[name] = kept


def _plainly(value: Any) -> Any:
    if isinstance(value, (ChannelCount, Size)):
        return plain(value)
    if type(value) is Literal:
        return float(value)
    if type(value) in (tuple, list, torch.Size):
        items = [_plainly(v) for v in value]
        return value if all(map(operator.is_, items, value)) else type(value)(items)
    if type(value) is dict and value:
        pairs = [(_plainly(key), _plainly(item)) for key, item in value.items()]
        if not all(all(map(operator.is_, *both)) for both in zip(pairs, value.items(), strict=True)):
            value.clear()  # in place: others may hold it
            value.update(pairs)
    return value
