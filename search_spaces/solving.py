"""From recorded ids to a `SearchSpace`: connected components become units, alike units become groups."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from search_spaces.channels import CONSTANT
from search_spaces.recorder import Recorder
from search_spaces.space import Axis, ChannelGroup, Layer, Member, SearchSpace, TensorShape

Line = tuple[int, NDArray[np.int64]]  # number of a distinct id vector, its components


class Solver:
    """Numbers the distinct lines of ids, finds the units on them, and counts."""

    def __init__(self, rec: Recorder) -> None:
        self.rec = rec
        self.labels = rec.channels.labels
        self.reasons = rec.channels.reasons()
        self.lines: dict[bytes, Line] = {}
        self.axes = [(name, axis, role, self.line(ids)) for (name, axis), (role, ids) in rec.axes.items()]
        self.calls = [
            (owner, call, *(v if isinstance(v, int) else self.line(v) for v in (call["reads"], call["makes"])))
            for (owner, _), call in rec.calls.items()
        ]
        self.group_of: NDArray[np.int64] = np.full(int(self.labels.max()) + 1, -1)
        self.groups, self.frozen = self._groups()

    def line(self, ids: Tensor) -> Line:
        """Equal id vectors (a filter, its bias, its batch-norm ...) share one line."""
        labels = self.labels[ids.numpy()]
        return self.lines.setdefault(labels.tobytes(), (len(self.lines), labels))

    def _groups(self) -> tuple[tuple[ChannelGroup, ...], tuple[ChannelGroup, ...]]:
        units = self._units()
        by_kind: dict[tuple[bytes, str], list[int]] = defaultdict(list)
        made = {number for _, axis, role, (number, _) in self.axes if role == "out" or (role == "declared" and axis == 0)}
        for label, rows in units.items():
            if label == self.labels[CONSTANT]:
                continue
            why = self.reasons.get(label, "")
            if not made & set(rows[:, 0].tolist()):
                continue  # ids that only a parameter or a constant carries
            by_kind[b"" if why else rows.tobytes(), why].append(label)
        prunable, frozen, taken = [], [], dict[str, int]()
        for (_, why), members in by_kind.items():
            group = self._group(members, why, taken)
            if why:
                frozen.append(group)
            else:
                self.group_of[members] = len(prunable)
                prunable.append(group)
        return tuple(prunable), tuple(frozen)

    def _units(self) -> dict[int, NDArray[np.int64]]:
        """Component -> rows (line, how often it occurs there), in order of first appearance."""
        labels = np.concatenate([labels for _, labels in self.lines.values()])
        numbers = np.concatenate([np.full(len(labels), n) for n, labels in self.lines.values()])
        order = np.lexsort((numbers, labels))
        pairs, counts = np.unique(np.stack([labels[order], numbers[order]]), axis=1, return_counts=True)
        _, first = np.unique(labels, return_index=True)
        starts = np.flatnonzero(np.diff(pairs[0], prepend=-1))
        rows = np.stack([pairs[1], counts], 1)
        found = {int(pairs[0, s]): rows[s:e] for s, e in zip(starts, [*starts[1:], pairs.shape[1]], strict=True)}
        return {label: found[label] for label in labels[np.sort(first)].tolist()}

    def _group(self, units: list[int], why: str, taken: dict[str, int]) -> ChannelGroup:
        rank = np.full(len(self.group_of), -1)
        rank[units] = np.arange(len(units))
        members, cache = [], dict[int, Any]()
        for name, axis, role, (number, labels) in self.axes:
            if number not in cache:
                positions = np.flatnonzero(rank[labels] >= 0)
                order = np.argsort(rank[labels[positions]], kind="stable")
                even = len(positions) and len(positions) % len(units) == 0
                cache[number] = positions[order].reshape(len(units), -1) if even and not why else positions[order][:, None]
            if cache[number].size:
                members.append(Member(name, axis, role, cache[number]))
        makers = [m.layer for m in members if m.role == "out" or (m.role == "declared" and m.axis == 0)]
        name = makers[0]
        taken[name] = taken.get(name, 0) + 1
        name = name if taken[name] == 1 else f"{name}#{taken[name]}"
        return ChannelGroup(name, len(units), tuple(members), frozen_because=why)

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
            Layer(owner, call["kind"], call["kernel"], call["pixels"], self.axis(reads), self.axis(makes))
            for owner, call, reads, makes in self.calls
        )
        on_axis = {(name, axis): line for name, axis, _, line in self.axes}
        tensors = []
        for name, parameter in model.named_parameters():
            axes = [self.axis(on_axis.get((name, d), n)) for d, n in enumerate(parameter.shape)]
            fixed = int(np.prod([a.size for a in axes if not a.terms], dtype=np.int64))
            tensors.append(TensorShape(name, (Axis(fixed, fixed), *(a for a in axes if a.terms))))
        return SearchSpace(self.groups, self.frozen, layers, tuple(tensors), tuple(self.rec.grouped.items()))
