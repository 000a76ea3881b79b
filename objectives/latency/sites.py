"""The layers of a network as a device sees them: what decides how long each takes, besides its widths."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from objectives.products import Floats
from search_spaces import Axis, SearchSpace
from search_spaces.tracing import as_call


@dataclass(frozen=True)
class Site:
    """One layer.

    Attributes:
        name: Its name in the network.
        signature: Kind, kernel, stride, grouping, sizes and batch: layers with the same one share what is learnt.
        kind: "conv", "depthwise", "grouped", "linear" ...: layers of a kind are alike in how their time grows.
        work: Billions of multiply-adds of one batch per channel read and made.
        pixels: Millions of output positions of one batch.
        weight: Millions of weights per channel read and made.
        reads: Input channels (of a grouped layer: all of them).
        makes: Output channels.
    """

    name: str
    signature: str
    kind: str
    work: float
    pixels: float
    weight: float
    reads: Axis
    makes: Axis

    def to_json(self) -> list[Any]:
        """A plain list."""
        axes = [[a.size, a.fixed, [list(t) for t in a.terms]] for a in (self.reads, self.makes)]
        return [self.name, self.signature, self.kind, self.work, self.pixels, self.weight, *axes]

    @classmethod
    def from_json(cls, data: Any) -> Site:
        """The inverse of `to_json`."""
        axes = [Axis(size, fixed, tuple((g, k) for g, k in terms)) for size, fixed, terms in data[6:]]
        return cls(*data[:6], *axes)


def sites_of(model: nn.Module, space: SearchSpace, example: Any) -> tuple[Site, ...]:
    """The layers of a space, with what only a forward pass of the network tells (strides, input sizes).

    Args:
        model: The dense network.
        space: Its search space.
        example: One batch as it is called with.
    """
    seen: dict[str, list[Any]] = {}
    names = {layer.name for layer in space.layers}
    handles = []
    for name, module in model.named_modules():
        if name in names:

            def note(module: nn.Module, inputs: tuple[Any, ...], _output: Any, name: str = name) -> None:
                sizes = [list(t.shape[2:]) for t in inputs if isinstance(t, Tensor)]
                kernel = [
                    list(getattr(module, a, ())) for a in ("kernel_size", "stride", "dilation") if _sized(module, a)
                ]
                seen[name] = [type(module).__name__, kernel, sizes, getattr(module, "groups", 1)]

            handles.append(module.register_forward_hook(note))
    args, kwargs = as_call(example)
    try:
        with torch.inference_mode():
            model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    batch = next(t.shape[0] for t in tree_leaves(example) if isinstance(t, Tensor))
    return tuple(_site(layer, seen.get(layer.name, []), batch) for layer in space.layers)


class _Operations(TorchDispatchMode):
    """Notes what is called."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.seen.append(f"{func} {[tuple(t.shape) for t in tree_leaves(out) if isinstance(t, Tensor)]}")
        return out


def operations(model: nn.Module, example: Any) -> list[str]:
    """Every operation of a forward pass and the shapes it makes: the layers alone do not tell a ReLU from a SiLU."""
    args, kwargs = as_call(example)
    found = _Operations()
    with torch.inference_mode(), found:
        model(*args, **kwargs)
    return found.seen


def _sized(module: nn.Module, attribute: str) -> bool:
    return isinstance(getattr(module, attribute, None), tuple)


def _site(layer: Any, seen: list[Any], batch: int) -> Site:
    groups = seen[3] if seen else 1
    kind, reads = layer.kind, layer.reads
    if groups > 1:
        kind = "depthwise" if layer.reads.size == 1 else "grouped"
        if kind == "depthwise":
            reads = layer.makes
    signature = json.dumps([layer.kind, *seen[:3], kind, layer.kernel, layer.pixels, batch], separators=(",", ":"))
    work, pixels = layer.pixels * layer.kernel * batch, layer.pixels * batch
    return Site(layer.name, signature, kind, work / 1e9, pixels / 1e6, layer.kernel / 1e6, reads, layer.makes)


class Channels:
    """Widths [B, G] -> channels read and made by each of `L` sites [B, L], for whole batches."""

    def __init__(self, sites: tuple[Site, ...], num_groups: int) -> None:
        self._tables = [_table([s.reads for s in sites], num_groups), _table([s.makes for s in sites], num_groups)]

    def __call__(self, widths: NDArray[Any]) -> tuple[Floats, Floats]:
        """Channels read and made [B, L]."""
        reads, makes = (np.asarray(widths, np.float64) @ slopes + fixed for slopes, fixed in self._tables)
        return reads, makes


def _table(axes: list[Axis], num_groups: int) -> tuple[Floats, Floats]:
    slopes, fixed = np.zeros((num_groups, len(axes))), np.zeros(len(axes))
    for column, axis in enumerate(axes):
        fixed[column] = axis.fixed
        for group, per_unit in axis.terms:
            slopes[group, column] += per_unit
    return slopes, fixed
