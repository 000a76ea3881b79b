"""Which positions of which tensor axes stay: worked out once per space, applied to every candidate."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from search_spaces.groups import ChannelGroup, IntArray
from search_spaces.sending import sent
from search_spaces.space import Kept, SearchSpace

# The number of a set of axes on which the same units sit at the same places (a filter, its bias, its batch-norm ...).
Line = int
OTHERS = ("declared", "statistics", "product", "attribute", "input")  # roles of what is no axis of a tensor


class Plan:
    """Which axes shrink, and by which line.

    Attributes:
        tensors: Tensor -> [(axis, line)].
        declared: Module that declares how it shrinks -> {axis: line}.
        statistics: Normaliser whose size is an attribute -> line.
        attributes: Attribute of a module ("module.name", "module.name.item") -> (channels that it follows, line).
        inputs: Input of the network whose channels may go -> (axis, line).
        products: (module, number of a matrix product in it) -> line of the channels it sums over.
        grouped: Grouped convolution or normalisation that loses whole groups -> channels per group (see SearchSpace).
    """

    def __init__(self, space: SearchSpace) -> None:
        self.sizes = space.full
        self.tensors: dict[str, list[tuple[int, Line]]] = {}
        self.declared: dict[str, dict[int, Line]] = {}
        self.statistics: dict[str, Line] = {}
        self.attributes: dict[str, tuple[int, Line]] = {}
        self.inputs: dict[str, tuple[int, Line]] = {}
        self.products: dict[tuple[str, int], Line] = {}
        self.grouped = dict(space.grouped)
        self._lines: list[list[tuple[int, IntArray]]] = []
        axes: dict[tuple[str, str, int], dict[tuple[int, int], IntArray]] = {}
        for number, group in enumerate(space.groups):
            for member in group.members:
                kind = member.role if member.role in OTHERS else "tensor"
                parts = axes.setdefault((kind, member.tensor, member.axis), {})
                parts[number, id(member.index)] = member.index  # a tensor both made and read (tied weights) counts once
        known: dict[tuple[tuple[int, int], ...], Line] = {}
        for (kind, name, axis), parts in axes.items():
            line = known.setdefault(tuple(parts), len(self._lines))
            if line == len(self._lines):
                self._lines.append([(group, index) for (group, _), index in parts.items()])
            if kind == "tensor":
                self.tensors.setdefault(name, []).append((axis, line))
            elif kind == "declared":
                self.declared.setdefault(name, {})[axis] = line
            elif kind == "attribute":
                self.attributes[name] = (axis, line)
            elif kind == "input":
                self.inputs[name] = axis, line
            elif kind == "statistics":
                self.statistics[name] = line
            else:
                self.products[name, axis] = line

    def removed(self, kept: Sequence[IntArray]) -> list[IntArray]:
        """[line] the positions that go."""
        gone = []
        for size, indices in zip(self.sizes, kept, strict=True):
            stays = np.zeros(size, bool)
            stays[indices] = True
            gone.append(np.flatnonzero(~stays))
        return [np.concatenate([index[gone[group]].ravel() for group, index in parts]) for parts in self._lines]

    def contents(self, line: Line, size: int, order: Sequence[IntArray] | None) -> IntArray:
        """[size] which position of an axis stands in each place, with the units of each group in this order [C]."""
        found = np.arange(size)
        if order is not None:
            for group, index in self._lines[line]:
                found[index] = index[order[group]]
        return found


class Stays:
    """Which positions of which axes stay in one candidate: as numbers, and on its device, where one copy sends all.

    Attributes:
        removed: [line] the positions that go.
        widths: [G] kept units.
        more: What else was sent.

    Args:
        removed: See above.
        axes: (line, size) of the axes that will be asked for.
        device: Of the network.
        widths: See above.
    """

    def __init__(
        self,
        removed: list[IntArray],
        axes: Iterable[tuple[Line, int]],
        device: torch.device,
        widths: Sequence[int] = (),
    ) -> None:
        self.removed, self.widths, self.more = removed, widths, list[Tensor]()
        self._device = device
        self._known: dict[tuple[Line, int], IntArray] = {}
        self._sent: dict[tuple[Line, int], Tensor] = {}
        self._axes = [axis for axis in axes if removed[axis[0]].size]

    def send(self, more: Sequence[IntArray] = ()) -> Stays:
        """Have it all on the device; returns itself."""
        arrays = [*(self.of(*axis) for axis in self._axes), *more]
        if arrays:
            whole = sent(torch.from_numpy(np.concatenate(arrays)), self._device)
            parts = whole.split([len(array) for array in arrays])
            self._sent.update(zip(self._axes, parts, strict=False))
            self.more = list(parts[len(self._axes) :])
        return self

    def of(self, line: Line, size: int) -> IntArray:
        """The positions that stay of an axis of so many."""
        if (line, size) not in self._known:
            self._known[line, size] = np.delete(np.arange(size), self.removed[line])
        return self._known[line, size]

    def on_device(self, line: Line, size: int) -> Tensor:
        """The same as a tensor."""
        if (line, size) not in self._sent:
            self._sent[line, size] = sent(torch.from_numpy(self.of(line, size)), self._device)
        return self._sent[line, size]


def plan_of(space: SearchSpace) -> Plan:
    """The plan of a space, made once."""
    found: Plan | None = space.__dict__.get("_plan")
    if found is None:
        found = space.__dict__["_plan"] = Plan(space)
    return found


def check_kept(space: SearchSpace, kept: Sequence[Any]) -> Kept:
    """Kept indices as sorted int64 arrays.

    Raises:
        ValueError: If a group is missing, empty though it may not vanish, or an index is out of range or given twice.
    """
    if len(kept) != len(space.groups):
        raise ValueError(f"kept indices for {len(kept)} groups given, but this space has {len(space.groups)}")
    arrays = tuple(np.sort(np.asarray(k, dtype=np.int64)) for k in kept)
    for group, k in zip(space.groups, arrays, strict=True):
        if not len(k) and group.floor == 0:
            continue
        if not len(k) or k[0] < 0 or k[-1] >= group.size or (np.diff(k) == 0).any():
            raise ValueError(
                f"group '{group.name}': kept indices must be distinct, within 0..{group.size - 1} and not empty"
                f"{_may_not(group, len(k))}"
            )
    settled = space.settled([len(k) for k in arrays])
    return tuple(k[:w] for k, w in zip(arrays, settled, strict=True))


def _may_not(group: ChannelGroup, count: int) -> str:
    """Why a group without units is none, in words."""
    if count:
        return ""
    if group.may_vanish:
        return "; it may vanish: give with_limits(depth=True)"
    return f"; it may not vanish: {group.stays_because}" if group.stays_because else ""
