"""From recorded ids to a `SearchSpace`: connected components become units, alike units become groups."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from search_spaces.branches.finding import with_branches
from search_spaces.branches.trying import WithoutBranches
from search_spaces.channels import CONSTANT
from search_spaces.groups import ChannelGroup, Member
from search_spaces.recorder import Recorder
from search_spaces.space import Axis, Layer, SearchSpace, TensorShape

ALONE = "one unit always stays, and there is only one"
Line = tuple[int, NDArray[np.int64]]  # number of a distinct id vector, its components


def makes(role: str, axis: int) -> bool:
    """Does a tensor axis of this role make channels?"""
    return role in ("out", "input") or (role == "declared" and axis == 0)


class Solver:
    """Numbers the distinct lines of ids, finds the units on them, and counts."""

    def __init__(self, rec: Recorder) -> None:
        rec.resolve()
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
            (owner, call, self.side(call.reads), self.side(call.makes)) for (owner, _), call in rec.calls.layers.items()
        ]
        self.group_of: NDArray[np.int64] = np.full(len(self.roots), -1)
        self.groups, self.frozen = self._groups()
        self._axes: dict[int, Axis] = {}  # of a line

    def stuck(self) -> dict[str, int]:
        """Layers that lose whole groups, so that all channels are one unit, and need not (see `Recorder.tried`)."""
        members = [m for g in self.frozen if g.frozen_because.startswith(ALONE) for m in g.members if m.index.size > 1]
        return {m.layer: 1 for m in members if m.layer in self.rec.whole_or_alike & self.rec.grouped.keys()}

    @property
    def made_frozen(self) -> int:
        """How many rows of filters cannot go."""
        return sum(m.index.size for g in self.frozen for m in g.members if makes(m.role, m.axis))

    def side(self, ids: Tensor | int) -> Line | int:
        """One side of a layer."""
        return ids if isinstance(ids, int) else self.line(ids)

    def line(self, ids: Tensor) -> Line:
        """Equal id vectors (a filter, its bias, its batch-norm ...) share one line."""
        roots = self.roots[ids.numpy()]
        return self.lines.setdefault(roots.tobytes(), (len(self.lines), roots))

    def _groups(self) -> tuple[tuple[ChannelGroup, ...], tuple[ChannelGroup, ...]]:
        alike: dict[tuple[int, str], list[int]] = defaultdict(list)
        for root, kind in self._units():
            why = self.reasons.get(root, "")
            alike[0 if why else kind, why].append(root)
        prunable: list[ChannelGroup] = []
        frozen: list[ChannelGroup] = []
        taken: Counter[str] = Counter()
        lines = self._lines_of(list(alike.values()))
        for number, ((_, why), units) in enumerate(alike.items()):
            if not why and len(units) == 1:
                place = self.rec.channels.united_by(units[0])
                why = ALONE + (f": {place} ties its channels" if place else "")
            group = self._group(units, lines[number], why, taken)
            if why == ALONE:
                group = replace(group, frozen_because=f"{ALONE}: '{group.name}' makes no more")
            if why:
                frozen.append(group)
            else:
                self.group_of[units] = len(prunable)
                prunable.append(group)
        return tuple(prunable), tuple(frozen)

    def _units(self) -> Iterator[tuple[int, int]]:
        """(root, kind) in order of first appearance; those that occur equally often on the same lines are of one kind.

        Left out are constants, and ids that only a parameter carries.
        """
        made = {number for _, axis, role, (number, _) in self.axes if makes(role, axis)}
        kinds = np.zeros(len(self.roots), np.int64)
        is_made = np.zeros(len(self.roots), bool)
        last = 0
        for number, line in self.lines.values():
            roots, often = np.unique(line, return_counts=True)
            _, finer = np.unique(kinds[roots] * (len(line) + 1) + often, return_inverse=True)
            kinds[roots] = last + 1 + finer
            last += len(roots)
            is_made[roots] |= number in made
        is_made[CONSTANT] = False
        everywhere = np.concatenate([line for _, line in self.lines.values()] or [np.zeros(0, np.int64)])
        _, first = np.unique(everywhere, return_index=True)
        order = everywhere[np.sort(first)]
        order = order[is_made[order]]
        return zip(order.tolist(), kinds[order].tolist(), strict=True)

    def _lines_of(self, groups: list[list[int]]) -> list[set[int]]:
        """The numbers of the lines on which the units of each group lie."""
        found: list[set[int]] = [set() for _ in groups]
        owner = np.full(len(self.roots), -1)
        for number, units in enumerate(groups):
            owner[units] = number
        for number, line in self.lines.values():
            for group in np.unique(owner[line]).tolist():
                if group >= 0:
                    found[group].add(number)
        return found

    def _group(self, units: list[int], lines: set[int], why: str, taken: Counter[str]) -> ChannelGroup:
        rank = np.full(len(self.group_of), -1)
        rank[units] = np.arange(len(units))
        members: list[Member] = []
        cache: dict[int, NDArray[np.int64]] = {}
        for name, axis, role, (number, roots) in self.axes:
            if number not in lines:
                continue
            if number not in cache:
                positions = np.flatnonzero(rank[roots] >= 0)
                order = np.argsort(rank[roots[positions]], kind="stable")
                even = len(positions) % len(units) == 0
                cache[number] = positions[order].reshape((len(units), -1) if even and not why else (-1, 1))
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
        if (known := self._axes.get(line[0])) is not None:
            return known
        groups = self.group_of[line[1]]
        numbers, counts = np.unique(groups[groups >= 0], return_counts=True)
        terms = tuple((int(g), int(n) // self.groups[g].size) for g, n in zip(numbers, counts, strict=True))
        self._axes[line[0]] = Axis(len(groups), int((groups < 0).sum()), terms)
        return self._axes[line[0]]

    def _computed(self, network: str) -> Iterator[ChannelGroup]:
        """What is made by weights that are no parameters, and so has no members; `network` names what is in no module.

        Left out is what has parameters in another mode.
        """
        known = {
            (m.layer, m.index.size, g.frozen_because) for g in self.frozen for m in g.members if makes(m.role, m.axis)
        }
        taken = Counter(g.name for g in (*self.groups, *self.frozen))
        for (name, size), why in self.rec.obstacles.items():
            if (name, size, why) not in known:
                taken[name or network] += 1
                number = taken[name or network]
                title = (name or network) + (f"#{number}" if number > 1 else "")
                yield ChannelGroup(title, size, (), floor=size, frozen_because=why)

    def space(self, model: nn.Module, without: WithoutBranches) -> SearchSpace:
        """The search space; `without` runs the network without branches."""
        layers = tuple(
            Layer(owner, call.kind, call.kernel, call.pixels, self.axis(reads), self.axis(makes))
            for owner, call, reads, makes in self.calls
        )
        on_axis = {(name, axis): line for name, axis, _, line in self.axes}
        tensors = []
        for name, parameter in model.named_parameters():
            axes = [self.axis(on_axis.get((name, d), n)) for d, n in enumerate(parameter.shape)]
            for d in (d for d in range(len(axes)) if (name, d) in self.rec.calls.lengths):
                axes[d] = self.axis(self.line(self.rec.calls.lengths[name, d]))
            fixed = int(np.prod([a.size for a in axes if not a.terms], dtype=np.int64))
            tensors.append(TensorShape(name, (Axis(fixed, fixed), *(a for a in axes if a.terms))))
        frozen = (*self.frozen, *self._computed(type(model).__name__))
        space = SearchSpace(self.groups, frozen, layers, tuple(tensors), tuple(self.rec.grouped.items()))
        return with_branches(space, self.rec, self.group_of, without)
