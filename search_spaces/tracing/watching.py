"""What is exchanged while a network is traced, so that channel counts are seen wherever they go.

Size attributes of layers that will shrink are counts, those of the network's own modules are sizes, and its floats ask.
(What else reads a number without asking it: see readers.py.)
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from search_spaces.contents import kept_in, tensors_in
from search_spaces.counts import Attribute, ChannelCount, Size, plain
from search_spaces.graph import MADE_BY
from search_spaces.recorder import ATTRIBUTE, Recorder
from search_spaces.tracing.literals import DecimalLiteral, Literal, floats_asked
from search_spaces.tracing.readers import KINDS

REGULARISERS = ("torch.nn.modules.", "torchvision.ops.", "timm.layers.drop")  # what they drop is no channel's own


@contextmanager
def watched(rec: Recorder) -> Iterator[None]:
    """Channel counts are seen wherever one network reads or uses them (and see `readers.counts_seen`)."""
    with ExitStack() as stack:
        stack.enter_context(_counted_attributes(rec))
        stack.enter_context(_sizes_in_attributes(rec))
        stack.enter_context(floats_asked(rec.modules.values(), KINDS))
        stack.enter_context(modes_read(partial(setattr, rec, "asks_mode", True)))
        yield


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
    """`conv.out_channels` read by the network's own code is a count of the layer's channels.

    It stays the true width, so that what is worked out of it otherwise (a scale `embedding_dim**0.5`) would change with
    the pruned layer, and freezes it. An attribute of the network's own keeps its value as long as no size follows it.
    """
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
    if type(value) in (Literal, DecimalLiteral):
        return type(value).__mro__[1](value)
    if type(value) in (tuple, list, torch.Size):
        items = [_plainly(v) for v in value]
        return value if all(map(operator.is_, items, value)) else type(value)(items)
    if type(value) is dict and value:
        pairs = [(_plainly(key), _plainly(item)) for key, item in value.items()]
        if not all(all(map(operator.is_, *both)) for both in zip(pairs, value.items(), strict=True)):
            value.clear()  # in place: others may hold it
            value.update(pairs)
    return value
