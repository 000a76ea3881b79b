"""From recorded ids to a `SearchSpace`: connected components become units, alike units become groups."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from search_spaces.branches import with_branches
from search_spaces.channels import CONSTANT
from search_spaces.recorder import Recorder
from search_spaces.space import Axis, ChannelGroup, Layer, Member, SearchSpace, TensorShape

Line = tuple[int, NDArray[np.int64]]  # number of a distinct id vector, its components


def makes(role: str, axis: int) -> bool:
    """Does a tensor axis of this role make channels?"""
    return role in ("out", "input") or (role == "declared" and axis == 0)


class Solver:
    """Numbers the distinct lines of ids, finds the units on them, and counts."""

    def __init__(self, rec: Recorder) -> None:
        rec.settle()
        self.rec = rec
        self.roots = rec.channels.roots
        self.reasons = rec.channels.reasons()
        self.several = {int(root) for ids in rec.several for root in self.roots[ids.numpy()]}
        self.heads = {int(root) for ids in rec.heads for root in self.roots[ids.numpy()]}
        self.lines: dict[bytes, Line] = {}
        self.axes = [
            (name, axis, role, self.line(ids)) for (name, axis), (roles, ids) in rec.axes.items() for role in roles
        ]
        self.calls = [
            (owner, call, self.side(call.reads), self.side(call.makes)) for (owner, _), call in rec.calls.items()
        ]
        self.group_of: NDArray[np.int64] = np.full(len(self.roots), -1)
        self.groups, self.frozen = self._groups()

    def side(self, ids: Tensor | int) -> Line | int:
        """One side of a layer."""
        return ids if isinstance(ids, int) else self.line(ids)

    def line(self, ids: Tensor) -> Line:
        """Equal id vectors (a filter, its bias, its batch-norm ...) share one line."""
        roots = self.roots[ids.numpy()]
        return self.lines.setdefault(roots.tobytes(), (len(self.lines), roots))

    def _groups(self) -> tuple[tuple[ChannelGroup, ...], tuple[ChannelGroup, ...]]:
        made = {number for _, axis, role, (number, _) in self.axes if makes(role, axis)}
        alike: dict[tuple[bytes, str], list[int]] = defaultdict(list)
        for root, rows in self._units().items():
            if root == CONSTANT or not made & set(rows[:, 0].tolist()):
                continue  # a constant, or ids that only a parameter carries
            why = self.reasons.get(root, "")
            alike[b"" if why else rows.tobytes(), why].append(root)
        prunable: list[ChannelGroup] = []
        frozen: list[ChannelGroup] = []
        taken: Counter[str] = Counter()
        for (_, why), units in alike.items():
            if not why and len(units) == 1:
                place = self.rec.channels.united_by(units[0])
                why = "one unit always stays, and there is only one" + (f": {place} ties its channels" if place else "")
            group = self._group(units, why, taken)
            if why:
                frozen.append(group)
            else:
                self.group_of[units] = len(prunable)
                prunable.append(group)
        return tuple(prunable), tuple(frozen)

    def _units(self) -> dict[int, NDArray[np.int64]]:
        """Root -> rows (line, how often it occurs there), in order of first appearance."""
        if not self.lines:
            return {}
        roots = np.concatenate([roots for _, roots in self.lines.values()])
        numbers = np.concatenate([np.full(len(roots), n) for n, roots in self.lines.values()])
        order = np.lexsort((numbers, roots))
        pairs, counts = np.unique(np.stack([roots[order], numbers[order]]), axis=1, return_counts=True)
        _, first = np.unique(roots, return_index=True)
        starts = np.flatnonzero(np.diff(pairs[0], prepend=-1))
        rows = np.stack([pairs[1], counts], 1)
        found = {int(pairs[0, s]): rows[s:e] for s, e in zip(starts, [*starts[1:], pairs.shape[1]], strict=True)}
        return {root: found[root] for root in roots[np.sort(first)].tolist()}

    def _group(self, units: list[int], why: str, taken: Counter[str]) -> ChannelGroup:
        rank = np.full(len(self.group_of), -1)
        rank[units] = np.arange(len(units))
        members: list[Member] = []
        cache: dict[int, NDArray[np.int64]] = {}
        for name, axis, role, (number, roots) in self.axes:
            if number not in cache:
                positions = np.flatnonzero(rank[roots] >= 0)
                order = np.argsort(rank[roots[positions]], kind="stable")
                even = len(positions) and len(positions) % len(units) == 0
                cache[number] = (
                    positions[order].reshape(len(units), -1) if even and not why else positions[order][:, None]
                )
            if cache[number].size:
                members.append(Member(name, axis, role, cache[number]))
        name = next(m.layer or m.tensor for m in members if makes(m.role, m.axis))  # a parameter of the network itself
        taken[name] += 1
        name = name if taken[name] == 1 else f"{name}#{taken[name]}"
        floor = 2 if not why and self.several.intersection(units) else 1
        unit = "head" if self.heads.issuperset(units) else "channel"
        return ChannelGroup(name, len(units), tuple(members), floor=floor, frozen_because=why, unit=unit)

    def axis(self, line: Line | int) -> Axis:
        """How many of these ids stay, as a function of the widths."""
        if isinstance(line, int):
            return Axis(line, line)
        groups = self.group_of[line[1]]
        numbers, counts = np.unique(groups[groups >= 0], return_counts=True)
        terms = tuple((int(g), int(n) // self.groups[g].size) for g, n in zip(numbers, counts, strict=True))
        return Axis(len(groups), int((groups < 0).sum()), terms)

    def space(self, model: nn.Module) -> SearchSpace:
        """The search space."""
        layers = tuple(
            Layer(owner, call.kind, call.kernel, call.pixels, self.axis(reads), self.axis(makes))
            for owner, call, reads, makes in self.calls
        )
        on_axis = {(name, axis): line for name, axis, _, line in self.axes}
        tensors = []
        for name, parameter in model.named_parameters():
            axes = [self.axis(on_axis.get((name, d), n)) for d, n in enumerate(parameter.shape)]
            fixed = int(np.prod([a.size for a in axes if not a.terms], dtype=np.int64))
            tensors.append(TensorShape(name, (Axis(fixed, fixed), *(a for a in axes if a.terms))))
        space = SearchSpace(self.groups, self.frozen, layers, tuple(tensors), tuple(self.rec.grouped.items()))
        return with_branches(space, self.rec, self.group_of)
