"""What is left of a network's graph when groups have no channel: what is dropped, and where that meets what is not."""

from __future__ import annotations

import heapq
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from search_spaces.adapters import Adapter
from search_spaces.companions import squeeze, varying
from search_spaces.graph import OTHER, Made, Named, Node, is_pointwise, operator_name, references

if TYPE_CHECKING:
    from search_spaces.recorder import Recorder

CONVOLUTIONS = {torch.conv1d, torch.conv2d, torch.conv3d}
TRANSPOSED = {torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d}
GONE, CONST, VOID = "gone", "constant", "void"  # its channels are; it does not depend on the input; it means nothing
Groups = frozenset[int]


@dataclass(frozen=True)
class Exit:
    """A layer as what reads channels: its weight, the axes that read and make, its bias, and whether it pads."""

    weight: str
    reads: int
    makes: int
    bias: str | None
    plain: bool = True
    pads: bool = False


@dataclass(eq=False)
class View:
    """What is left of the network without some groups.

    Attributes:
        groups: Numbers of the groups that are not there.
        status: Node -> GONE, CONST or VOID; all others are alive.
        zero: Constants that are zero whatever the weights are.
        dropped: Nodes that nothing needs, those with a status among them.
        why_not: Why the groups may not vanish; empty if they may.
    """

    groups: Groups
    status: dict[int, str] = field(default_factory=dict)
    zero: set[int] = field(default_factory=set)
    dropped: set[int] = field(default_factory=set)
    why_not: str = ""


class Network:
    """The graph of one pass, asked about groups.

    Args:
        rec: After the trace.
        group_of: Root of an id -> number of its group, -1: of none.
    """

    def __init__(self, rec: Recorder, group_of: NDArray[np.int64]) -> None:
        self.rec, self.graph, self.nodes = rec, rec.graph, rec.graph.nodes
        self.shapes = {name: tuple(tensor.shape) for name, tensor in rec.tensors}
        self._group_of = group_of[rec.channels.roots]  # of every id
        self._known: dict[tuple[Any, ...], Groups] = {}
        self._axes: dict[int, int | None] = {}
        self.on: list[Groups] = [self._groups(node.ids) for node in self.nodes]
        self.exits = {n: e for n, node in enumerate(self.nodes) if (e := self._exit(node)) is not None}
        self.read: dict[int, Groups] = {
            n: self._groups(known[1]) if (known := rec.axes.get((e.weight, e.reads))) else frozenset()
            for n, e in self.exits.items()
        }
        # A layer whose answer nothing uses in the end runs all the same.
        alive = set(rec.graph.outputs) | {n for n in range(len(self.nodes)) if self.is_layer(n)}
        stack = list(alive)
        while stack:
            for m in self.nodes[stack.pop()].reads:
                if m not in alive:
                    alive.add(m)
                    stack.append(m)
        self.reads_others = {
            n for n, node in enumerate(self.nodes) if any(r is OTHER for r in references((node.args, node.kwargs)))
        }
        self.fed: set[int] = set()  # nodes that depend on the network's input, as far as is known
        for n, node in enumerate(self.nodes):
            if n in self.reads_others or not self.fed.isdisjoint(node.reads):
                self.fed.add(n)
        self._idle: dict[int, list[int]] = defaultdict(list)  # node -> what reads it and runs for nothing
        self.consumers: dict[int, list[int]] = defaultdict(list)
        self.makers: dict[int, list[int]] = defaultdict(list)
        self._seeds: dict[int, list[int]] = defaultdict(list)
        self.inside: dict[int, list[int]] = defaultdict(list)  # module call -> nodes
        for n, node in enumerate(self.nodes):
            for m in dict.fromkeys(node.reads if n not in alive else ()):
                self._idle[m].append(n)
        for n in sorted(alive):
            for m in dict.fromkeys(self.nodes[n].reads):
                self.consumers[m].append(n)
            for call in self.nodes[n].calls:
                self.inside[call].append(n)
            for g in self.on[n] - {-1}:
                self._seeds[g].append(n)
                if self.is_layer(n):
                    self.makers[g].append(n)
            for g in self.read.get(n, frozenset()) - {-1}:
                self._seeds[g].append(n)
        self.calls_of: dict[str, list[int]] = defaultdict(list)  # module -> its calls in which something ran
        for number, made in enumerate(self.graph.calls):
            if number in self.inside:
                self.calls_of[made.name].append(number)

    def _groups(self, ids: Any) -> Groups:
        if ids is None:
            return frozenset()
        small = squeeze(ids)
        key = small.data_ptr(), small.shape, small.stride()  # most companions are one line, spread
        found = self._known.get(key)
        if found is None:
            often = np.bincount(self._group_of[small.numpy()].reshape(-1) + 1)
            found = self._known[key] = frozenset((np.flatnonzero(often) - 1).tolist())
        return found

    def axis(self, n: int) -> int | None:
        """The axis of a node's tensor on which its channels lie, if it is just one."""
        if n not in self._axes:
            ids = self.nodes[n].ids
            axes = [] if ids is None else varying(ids)
            self._axes[n] = axes[0] if len(axes) == 1 else None
        return self._axes[n]

    def _exit(self, node: Node) -> Exit | None:
        if isinstance(node.func, Adapter):
            call = self.graph.calls[node.calls[-1]]
            module = self.rec.modules[call.name]
            found = node.func.exit(module)
            if found is None:
                return None
            before = f"{call.name}." if call.name else ""
            weight, axis, bias = found
            return Exit(before + weight, axis, 1 - axis, bias and before + bias, plain=False)
        if node.func not in CONVOLUTIONS | TRANSPOSED and node.func is not functional.linear:
            return None
        weight, bias = node.argument(1, "weight"), node.argument(2, "bias")
        if not isinstance(weight, Named) or not (bias is None or isinstance(bias, Named)):
            return None
        reads = 0 if node.func in TRANSPOSED else 1
        padding = node.argument(4, "padding") if node.func in CONVOLUTIONS else 0
        pads = padding not in (None, "valid") and (isinstance(padding, str) or bool(np.any(padding)))
        plain = node.func not in TRANSPOSED
        return Exit(weight.name, reads, 1 - reads, bias and bias.name, plain, pads)

    def is_layer(self, n: int) -> bool:
        """Does it make channels?"""
        func = self.nodes[n].func
        return n in self.exits or isinstance(func, (Adapter, nn.Module)) or func is functional.embedding

    def module_of(self, n: int) -> str:
        """Name of the innermost module in which a node runs."""
        calls = self.nodes[n].calls
        return self.graph.calls[calls[-1]].name if calls else ""

    def around(self, nodes: Iterable[int]) -> str:
        """Name of the innermost module in which nodes run and all that reads them."""
        near = (m for n in nodes for m in (n, *self.consumers.get(n, ()), *self._idle.get(n, ())))
        return os.path.commonpath([f"/{self.module_of(m).replace('.', '/')}" for m in near])[1:].replace("/", ".")

    def where(self, n: int) -> str:
        """The module of a node for messages."""
        name = self.module_of(n)
        return f"'{name}'" if name else "the model"

    def is_idle(self, n: int, dropped: set[int]) -> bool:
        """Is it read by code that runs for nothing, outside of modules all of whose work is dropped?"""
        return any(
            not any(dropped.issuperset(self.inside[c]) for c in self.nodes[reader].calls if c in self.inside)
            for reader in self._idle.get(n, ())
        )

    def closed(self, groups: Iterable[int]) -> View:
        """The view without these groups and all that only dropped layers make."""
        view = self.look(frozenset(groups))
        while not view.why_not:
            along = {
                g
                for n in view.dropped
                if self.is_layer(n)
                for g in self.on[n] - view.groups - {-1}
                if view.dropped.issuperset(self.makers[g])
            }
            if not along:
                break
            view = self.look(view.groups | along)
        return view

    def follow(self, constant: set[int]) -> set[int]:
        """Nodes that may be constants, and those that are where all of these are that they read."""
        found = set(constant)
        for n, node in enumerate(self.nodes):
            fed = self.fed.intersection(node.reads)
            if fed and found.issuperset(fed) and n not in self.reads_others:
                found.add(n)
        return found

    def look(self, gone: Groups) -> View:
        """What is left without these groups."""
        view = View(gone)
        pending = sorted({n for g in gone for n in self._seeds[g] if self._is_start(n, gone)})
        seen = set(pending)
        while pending:
            n = heapq.heappop(pending)
            status = self._status(n, view)
            if not status:
                continue
            view.status[n] = status
            if n in self.graph.outputs:
                view.why_not = "the network's answer comes through them alone: there is no way around it"
                if status == VOID:
                    first = next(m for m in sorted(view.status) if view.status[m] == VOID)
                    name = operator_name(self.nodes[first].func)
                    view.why_not = f"{name} in {self.where(first)} needs at least one of them"
                return view
            for c in self.consumers[n]:
                if c not in seen:
                    seen.add(c)
                    heapq.heappush(pending, c)
        self._drop(view)
        return view

    def _is_start(self, n: int, gone: Groups) -> bool:
        read = self.read.get(n)
        return bool(self.on[n] and self.on[n] <= gone) or bool(read and read <= gone)

    def _status(self, n: int, view: View) -> str:
        node, gone = self.nodes[n], view.groups
        if self.on[n] and self.on[n] <= gone:
            return GONE
        if (read := self.read.get(n)) and read <= gone:
            if self.exits[n].bias is None:
                view.zero.add(n)
            return CONST
        found = {view.status.get(m, "" if m in self.fed else CONST) for m in node.reads}
        if n in self.reads_others:
            found.add("")
        if operator_name(node.func) == "cat" and found & {"", CONST}:
            return CONST if found == {CONST} else ""
        if found & {GONE, VOID}:
            return "" if n in self.exits and "" in found else VOID
        if found != {CONST}:
            return ""
        if self._stays_zero(n, view):
            view.zero.add(n)
        return CONST

    def _stays_zero(self, n: int, view: View) -> bool:
        """Does an operation on constants that are zero give zero?"""
        node = self.nodes[n]
        if not view.zero.issuperset(node.reads):
            return False
        if n in self.exits:
            return self.exits[n].bias is None
        if not is_pointwise(node.func):
            return not any(isinstance(r, Named) for r in references((node.args, node.kwargs)))

        def example(value: Any) -> Any:
            if isinstance(value, (Made, Named)):
                return torch.full((1,), float(isinstance(value, Named)))
            return tuple(map(example, value)) if isinstance(value, tuple) else value

        try:
            out = node.func(*map(example, node.args), **{k: example(v) for k, v in node.kwargs.items()})
        except (RuntimeError, TypeError, ValueError):
            return False
        return isinstance(out, torch.Tensor) and bool((out == 0).all())

    def _drop(self, view: View) -> None:
        """Find what nothing needs any more."""
        view.dropped = set(view.status)
        stack = list(view.dropped)
        while stack:
            n = stack.pop()
            ends = (
                c for c in self.consumers[n] if not self.consumers[c] and view.dropped.issuperset(self.nodes[c].reads)
            )
            for m in (*self.nodes[n].reads, *ends):
                if m in view.dropped or m in self.graph.outputs or not view.dropped.issuperset(self.consumers[m]):
                    continue
                if not self.is_idle(m, view.dropped):
                    view.dropped.add(m)
                    stack.append(m)
