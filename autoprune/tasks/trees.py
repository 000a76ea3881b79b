"""Batches of any make: what is input and what is target, how many samples, on which device, in parts or joined.

A batch is a pair (inputs, targets), a mapping or dataclass with the targets under one of `TARGETS`, or inputs alone.
Inputs are a tensor, a tuple of tensors (several arguments), a mapping (keyword arguments), or a list (one argument, as
detectors take images of different sizes). Tensors have the samples along axis 0, a list one sample an item. Targets of
another length belong to the batch as a whole (the boxes of all its images in one tensor): it is never cut or joined.
"""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoprune.compute import Compute

TARGETS = ("labels", "label", "targets", "target", "y")


def fields_of(value: Any) -> Mapping[str, Any] | None:
    """The parts of a mapping (`dict`, `BatchEncoding` ...) or a dataclass by name; None: it is none of them."""
    if isinstance(value, Mapping):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return None


def is_pair(batch: Any) -> bool:
    """Whether it is (inputs, targets ...); the default collation of a DataLoader gives it as a list."""
    return isinstance(batch, (tuple, list)) and len(batch) >= 2


def _has_targets(batch: Any) -> bool:
    named = fields_of(batch)
    return is_pair(batch) if named is None else any(key in named for key in TARGETS)


def inputs_of(batch: Any) -> Any:
    """What the network is called with."""
    if (named := fields_of(batch)) is not None:
        return {key: value for key, value in named.items() if key not in TARGETS}
    return batch[0] if isinstance(batch, (tuple, list)) and batch else batch


def targets_of(batch: Any) -> Any:
    """What it should answer; the inputs themselves where a batch brings nothing else."""
    if (named := fields_of(batch)) is not None:
        return next((named[key] for key in TARGETS if key in named), inputs_of(batch))
    if is_pair(batch):
        return batch[1] if len(batch) == 2 else tuple(batch[1:])
    return inputs_of(batch)


def no_targets(batch: Any) -> str:
    """Of a batch of names none of which is that of targets: that its inputs stand for them, in words; else empty."""
    named = fields_of(batch)
    if named is None or _has_targets(batch):
        return ""
    return f"its inputs, as none of {', '.join(map(str, named))} is called {', '.join(TARGETS[:-1])} or {TARGETS[-1]}"


def signature_of(model: Any) -> inspect.Signature:
    """Of the network's forward; of one that stands for another and takes whatever that takes, of that one's."""
    return inspect.signature(getattr(model, "stands_for", model).forward)


def arguments(model: Any, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a network is called with: arguments and keyword arguments.

    Of a mapping what the network has no parameter for is left out (ids, file names), as Hugging Face's `Trainer` does;
    where its only tensor is called otherwise than the network's parameter, it is the first argument.
    """
    if not isinstance(inputs, Mapping):
        return (inputs if isinstance(inputs, tuple) else (inputs,)), {}
    named = dict(inputs)
    try:
        parameters = signature_of(model).parameters
    except (TypeError, ValueError, AttributeError):
        return (), named
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()) or named.keys() <= parameters.keys():
        return (), named
    if known := {key: value for key, value in named.items() if key in parameters}:
        return (), known
    tensors = [value for value in named.values() if isinstance(value, Tensor)]
    return (tuple(tensors), {}) if len(tensors) == 1 else ((), named)


def left_out(model: Any, inputs: Any) -> list[str]:
    """What of a mapping the network is not called with, as it has no such parameter."""
    _, named = arguments(model, inputs)
    return [str(key) for key in inputs if key not in named] if named else []


def called(model: Any, inputs: Any) -> Any:
    """What the network answers."""
    args, kwargs = arguments(model, inputs)
    return model(*args, **kwargs)


def num_samples(batch: Any) -> int:
    """How many samples a batch holds; 0 if nothing in it says so."""
    inputs = inputs_of(batch)
    if isinstance(inputs, list):
        return len(inputs)
    values = inputs.values() if isinstance(inputs, Mapping) else inputs if isinstance(inputs, tuple) else (inputs,)
    for value in values:
        if isinstance(value, list):
            return len(value)
        if isinstance(value, (Tensor, np.ndarray)) and value.ndim:
            return len(value)
    return 0


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """The same with a function of every leaf, tuples, lists and mappings as they were."""
    if isinstance(value, Mapping):
        return {key: mapped(function, item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return like(value, (mapped(function, item) for item in value))
    if (named := fields_of(value)) is not None:
        return _with(value, {key: mapped(function, item) for key, item in named.items()})
    return function(value)


def leaves(value: Any) -> list[Tensor]:
    """Its tensors, in order."""
    found: list[Tensor] = []
    mapped(lambda leaf: found.append(leaf) if isinstance(leaf, Tensor) else None, value)
    return found


def placed(batch: Any, compute: Compute) -> Any:
    """The batch on the device; pictures channels last where the device's weights are."""

    def place(leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray) and leaf.dtype != object:
            leaf = torch.from_numpy(leaf)
        if isinstance(leaf, Tensor):
            leaf = leaf.to(compute.device, non_blocking=True)
            wide = compute.channels_last and leaf.dim() == 4 and leaf.is_floating_point()
            return leaf.contiguous(memory_format=torch.channels_last) if wide else leaf
        return leaf.to(compute.device) if callable(getattr(leaf, "to", None)) else leaf

    return mapped(place, batch)


def on_cpu(value: Any) -> Any:
    """Tensors as metrics see them: on the CPU, no half precision, and without gaps, as some take views of them."""

    def bring(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        leaf = leaf.detach().cpu().contiguous()
        return leaf.float() if leaf.dtype in (torch.bfloat16, torch.float16) else leaf

    return mapped(bring, value)


def bring(lists: Iterable[list[Tensor]]) -> None:
    """The tensors of some lists to the CPU, in place, by one copy for all: each copy waits for the device."""
    found = [(values, i, value) for values in lists for i, value in enumerate(values) if value.device.type != "cpu"]
    if not found:
        return
    row = torch.cat([value.detach().reshape(-1).double() for _, _, value in found]).cpu()
    for (values, i, value), part in zip(found, row.split([v.numel() for _, _, v in found]), strict=True):
        values[i] = part.view(value.shape).to(value.dtype)


def divisible(batch: Any) -> bool:
    """Whether its targets are told apart by samples: not where the boxes of all images stand in one tensor."""
    count = num_samples(batch)

    def fits(value: Any) -> bool:
        if (parts := fields_of(value)) is not None:
            return all(map(fits, parts.values()))
        if isinstance(value, (tuple, list)):
            return (isinstance(value, list) and len(value) == count) or all(map(fits, value))
        return not isinstance(value, (Tensor, np.ndarray)) or value.ndim == 0 or len(value) == count

    return not _has_targets(batch) or fits(targets_of(batch))


def part_of(batch: Any, start: int, end: int) -> Any:
    """Some of its samples; all of them where they cannot be told apart."""
    return _cut(batch, start, end) if divisible(batch) else batch


def sample_of(batch: Any) -> Any:
    """The inputs of its first sample."""
    return inputs_of(_cut(batch, 0, 1))


def _cut(batch: Any, start: int, end: int) -> Any:
    count = num_samples(batch)

    def cut(value: Any) -> Any:
        if isinstance(value, list) and len(value) == count:
            return value[start:end]
        if isinstance(value, Mapping):
            return {key: cut(item) for key, item in value.items()}
        if isinstance(value, (tuple, list)):
            return like(value, map(cut, value))
        if (named := fields_of(value)) is not None:
            return _with(value, {key: cut(item) for key, item in named.items()})
        along = isinstance(value, (Tensor, np.ndarray)) and value.ndim and len(value) == count
        return value[start:end] if along else value

    return like(batch, map(cut, batch)) if is_pair(batch) else cut(batch)


def like(value: Any, items: Iterable[Any]) -> Any:
    """A tuple, a named tuple or a list of other items."""
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


def _with(value: Any, parts: Mapping[str, Any]) -> Any:
    """A dataclass, frozen ones too, with other parts."""
    found = copy.copy(value)
    for name, part in parts.items():
        object.__setattr__(found, name, part)
    return found


def tuples(batch: Any) -> Any:
    """A batch of `default_collate`, whose lists are the tuples of a data set's items: several inputs, not samples."""
    if isinstance(batch, Mapping):
        return {key: tuples(value) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*map(tuples, batch))
    if isinstance(batch, (tuple, list)) and not all(isinstance(item, (str, bytes)) for item in batch):
        return tuple(map(tuples, batch))
    return batch


def listed(batch: Any) -> Any:
    """A batch of `tuple(zip(*samples))`, as detectors are fed, as two lists; several inputs stay a tuple.

    Those have a tensor of all samples each, as long as the tensors of the targets; samples have none such.
    """
    columns = batch if type(batch) is tuple and len(batch) == 2 else ()
    if not columns or any(type(c) is not tuple for c in columns) or len(columns[0]) != len(columns[1]):
        return batch
    items = [*columns[0], *columns[1]]
    lengths = {len(item) if isinstance(item, (Tensor, np.ndarray)) and item.ndim else 0 for item in items}
    return batch if len(lengths) == 1 and lengths != {0} else tuple(map(list, columns))


def split(batch: Any, parts: int) -> list[Any]:
    """The batch in so many even parts, or fewer where it has fewer samples or cannot be cut."""
    count = num_samples(batch)
    parts = max(1, min(parts, count))
    if parts == 1 or not divisible(batch):
        return [batch]
    ends = [round(count * i / parts) for i in range(parts + 1)]
    return [part_of(batch, a, b) for a, b in itertools.pairwise(ends)]


def joined(batches: Sequence[Any], most: int) -> Any:
    """At most so many samples as one batch: as many of the first batches as fit together."""
    whole = batches[0]
    for batch in batches[1:]:
        if num_samples(whole) >= most or not (divisible(whole) and divisible(batch)):
            break
        try:
            whole = like(whole, map(_join, whole, batch)) if is_pair(whole) else _join(whole, batch)
        except (ValueError, RuntimeError):  # other shapes: the first ones serve
            break
    return part_of(whole, 0, most) if num_samples(whole) > most else whole


def _join(one: Any, other: Any) -> Any:
    if isinstance(one, Tensor):
        return torch.cat([one, other])
    if isinstance(one, np.ndarray):
        return np.concatenate([one, other])
    if isinstance(one, Mapping):
        return {key: _join(value, other[key]) for key, value in one.items()}
    if (named := fields_of(one)) is not None:
        return _with(one, {key: _join(value, getattr(other, key)) for key, value in named.items()})
    if isinstance(one, list):
        return one + other
    return like(one, map(_join, one, other)) if isinstance(one, tuple) else one


def named_output(outputs: Any) -> str:
    """The name of the answer that counts, "logits" or "out"; empty where none is called so."""
    for name in ("logits", "out"):
        named = outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)
        if isinstance(named, Tensor) and not isinstance(outputs, Tensor):
            return name
    return ""


def main_output(outputs: Any) -> Any:
    """What of the answers counts: the tensor called "logits" or "out" where there is one, else all of them."""
    name = named_output(outputs)
    if not name:
        return outputs
    return outputs[name] if isinstance(outputs, Mapping) else getattr(outputs, name)


def not_finite(batch: Any) -> bool:
    """Whether it holds NaN or infinity (waits for the device)."""
    return any(leaf.is_floating_point() and not bool(leaf.isfinite().all()) for leaf in leaves(batch))


def shapes(batch: Any) -> str:
    """What a batch is, in a few words: "[32, 3, 8, 8], [32]"."""
    found = [str(list(leaf.shape)) for leaf in leaves(batch)]
    return ", ".join(found[:6]) + (f" and {len(found) - 6} more" if len(found) > 6 else "") or type(batch).__name__
