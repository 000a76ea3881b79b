"""Batches of any make: what is input and what is target, how many samples, on which device, in parts or joined.

A batch is a pair (inputs, targets), a mapping with the targets under one of `TARGETS`, or inputs alone. Inputs are a
tensor, a tuple of tensors (several arguments), a mapping (keyword arguments), or a list (one argument, as detectors
take images of different sizes). Tensors have the samples along axis 0, a list one sample an item.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoprune.compute import Compute

TARGETS = ("labels", "label", "targets", "target", "y")


def is_pair(batch: Any) -> bool:
    """Whether it is (inputs, targets ...); the default collation of a DataLoader gives it as a list."""
    return isinstance(batch, (tuple, list)) and len(batch) >= 2


def inputs_of(batch: Any) -> Any:
    """What the network is called with."""
    if isinstance(batch, Mapping):
        return {key: value for key, value in batch.items() if key not in TARGETS}
    return batch[0] if isinstance(batch, (tuple, list)) and batch else batch


def targets_of(batch: Any) -> Any:
    """What it should answer; the inputs themselves where a batch brings nothing else."""
    if isinstance(batch, Mapping):
        return next((batch[key] for key in TARGETS if key in batch), inputs_of(batch))
    if is_pair(batch):
        return batch[1] if len(batch) == 2 else tuple(batch[1:])
    return inputs_of(batch)


def called(model: Any, inputs: Any) -> Any:
    """What the network answers."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


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
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(function, item) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(mapped(function, item) for item in value)
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


def part_of(batch: Any, start: int, end: int) -> Any:
    """Some of its samples."""
    count = num_samples(batch)

    def cut(value: Any) -> Any:
        if isinstance(value, list) and len(value) == count:
            return value[start:end]
        if isinstance(value, Mapping):
            return {key: cut(item) for key, item in value.items()}
        if isinstance(value, (tuple, list)):
            return type(value)(cut(item) for item in value)
        along = isinstance(value, (Tensor, np.ndarray)) and value.ndim and len(value) == count
        return value[start:end] if along else value

    return type(batch)(map(cut, batch)) if is_pair(batch) else cut(batch)


def split(batch: Any, parts: int) -> list[Any]:
    """The batch in so many even parts, or fewer where it has fewer samples."""
    count = num_samples(batch)
    parts = max(1, min(parts, count))
    if parts == 1:
        return [batch]
    ends = [round(count * i / parts) for i in range(parts + 1)]
    return [part_of(batch, a, b) for a, b in itertools.pairwise(ends)]


def joined(batches: Sequence[Any], most: int) -> Any:
    """At most so many samples as one batch: as many of the first batches as fit together."""
    whole = batches[0]
    for batch in batches[1:]:
        if num_samples(whole) >= most:
            break
        try:
            pair = is_pair(whole)
            whole = type(whole)(map(_join, whole, batch)) if pair else _join(whole, batch)
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
    if isinstance(one, list):
        return one + other
    return tuple(map(_join, one, other)) if isinstance(one, tuple) else one


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
