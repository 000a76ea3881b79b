"""The operations of one forward pass as a graph: what each of them reads, in which module it runs, which ids it makes.

Kept beside the companions (see recorder.py) so that, when all groups are known, it can be asked what is left of the
network where none of a group's channels is (see branches/). No activation is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from weakref import ref

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from search_spaces.contents import COMMON, is_inexact, tensors_in

MADE_BY = "_made_by"  # of a traced tensor: (the mark of its graph, the number of the node)


@dataclass(frozen=True)
class Made:
    """In arguments: what a node has made."""

    node: int


@dataclass(frozen=True)
class Named:
    """In arguments: a parameter or buffer."""

    name: str


OTHER: Final = object()  # in arguments: any other tensor (an input of the network, a table in an attribute)


@dataclass(eq=False)
class Node:
    """One tensor that an operation has made.

    Attributes:
        func: The operation: a function of the torch API or an ATen operator; the adapter, of a module that has one.
        args: Its arguments, with `Made`, `Named` and `OTHER` for tensors.
        kwargs: By keyword.
        calls: Numbers of the module calls in which it ran, outermost first.
        shape: Of the tensor.
        reads: Nodes that it depends on.
        ids: Its companion; None: no channel lives on it.
        changes: It writes to its first argument.
        is_floating: It holds no whole numbers.
    """

    func: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    calls: tuple[int, ...]
    shape: tuple[int, ...]
    reads: tuple[int, ...]
    ids: Tensor | None = None
    changes: bool = False
    is_floating: bool = True

    def argument(self, position: int, name: str) -> Any:
        """By position or keyword; None where not given."""
        return self.args[position] if position < len(self.args) else self.kwargs.get(name)


@dataclass(eq=False)
class ModuleCall:
    """One call of a module.

    Attributes:
        name: The module's.
        outer: Number of the call in which it happened; -1: in none.
        given: Shape of the first tensor that it was called with; None: there was none.
        source: The node that made that tensor; None: no operation did.
        answers: Nodes that made its answer; None: it answers something else than one tensor, or what it was given.
        others: Of a tuple that begins with the tensor: the nodes of what follows it (None: no tensor); None: no tuple.
    """

    name: str
    outer: int
    given: tuple[int, ...] | None = None
    source: int | None = None
    answers: int | None = None
    others: tuple[int | None, ...] | None = None


@dataclass(eq=False)
class Graph:
    """All operations of the pass.

    Attributes:
        names: Parameters and buffers by the id of the tensor.
        companion: Of a tensor, as far as it is known.
        nodes: In the order in which they ran.
        calls: Of modules.
        outputs: Nodes that left the network.
        measured: Nodes whose shape the code has asked for.
        recording: False in passes that are no part of inference.
        is_incomplete: Something was read, or left the network, of which nothing that was seen has made the numbers.
    """

    names: Mapping[int, str]
    companion: Callable[[Tensor], Tensor | None]
    nodes: list[Node] = field(default_factory=list)
    calls: list[ModuleCall] = field(default_factory=list)
    outputs: set[int] = field(default_factory=set)
    measured: set[int] = field(default_factory=set)
    recording: bool = True
    is_incomplete: bool = False
    # Tensors are marked by this and not by the graph: views hold their bases unseen by the garbage collector, so that a
    # graph, and the network with it, would never be freed.
    _mark: object = field(default_factory=object)
    _marked: list[tuple[ref[Tensor], str]] = field(default_factory=list)
    _open: list[int] = field(default_factory=list)
    _known: dict[int, Tensor] = field(default_factory=dict)  # what was there before; held, for its address
    # Address of a storage -> that storage, while it lives (others get its address), and the node that wrote to it last.
    _written: dict[int, tuple[StorageWeakRef, int]] = field(default_factory=dict)

    def node_of(self, tensor: Tensor) -> int | None:
        """The node that made a tensor."""
        mark, node = getattr(tensor, MADE_BY, (None, None))
        return node if mark is self._mark else None

    def know(self, values: Any) -> None:
        """Tensors that were there before the network ran."""
        self._known.update((id(t), t) for t in tensors_in(values))

    def add(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """An operation has run."""
        if not self.recording:
            return
        reads: list[int] = []
        if func is torch.ops.aten.lift_fresh.default:  # torch.tensor(...): numbers that the code has
            self.know(args)
        args, kwargs = self._refer(tuple(args), reads), self._refer(dict(kwargs), reads)
        schema = getattr(func, "_schema", None)
        changes = schema is not None and schema.name.endswith("_")
        for tensor in tensors_in(out):
            if id(tensor) in self.names:
                continue
            node = len(self.nodes)
            self.nodes.append(
                Node(
                    func, args, kwargs, tuple(self._open), tuple(tensor.shape), tuple(reads), self.companion(tensor),
                    changes, is_inexact(tensor),
                )
            )  # fmt: skip
            self.mark(tensor, MADE_BY, (self._mark, node))
            if changes and (storage := _storage(tensor)) is not None:
                self._written[storage.data_ptr()] = StorageWeakRef(storage), node

    def add_missing(self, func: Any, args: Any, kwargs: Any, out: Any, before: int) -> None:
        """The same, unless the operators that it is made of have been recorded since there were `before` nodes."""
        if self.recording and any((self.node_of(t) or -1) < before for t in tensors_in(out) if id(t) not in self.names):
            self.add(func, args, kwargs, out)

    def identify(self, tensor: Tensor, ids: Tensor | None) -> None:
        """The companion of a tensor is known."""
        if self.recording and (node := self.node_of(tensor)) is not None:
            self.nodes[node].ids = ids

    def measure(self, tensor: Tensor) -> None:
        """The code has asked for its shape."""
        if self.recording and (node := self.node_of(tensor)) is not None:
            self.measured.add(node)

    def mark(self, tensor: Tensor, name: str, value: Any) -> None:
        """Note something on a tensor, until `forget`."""
        setattr(tensor, name, value)
        self._marked.append((ref(tensor), name))

    def forget(self) -> None:
        """Take all marks off the tensors that are still there (modules have kept them, say)."""
        for reference, name in self._marked:
            if (tensor := reference()) is not None:
                vars(tensor).pop(name, None)
        self._marked.clear()
        self._known.clear()

    def enter(self, name: str) -> None:
        """A module begins."""
        if self.recording:
            self.calls.append(ModuleCall(name, self._open[-1] if self._open else -1))
            self._open.append(len(self.calls) - 1)

    def leave(self, args: Any, output: Any) -> None:
        """The module ends that began last."""
        if not self.recording or not self._open:
            return
        call = self.calls[self._open.pop()]
        first = next(tensors_in(args), None)
        if first is not None:
            call.given, call.source = tuple(first.shape), self.node_of(first)
        answer = output
        if isinstance(output, tuple) and output and all(v is None or isinstance(v, Tensor) for v in output[1:]):
            answer = output[0]
            call.others = tuple(None if v is None else self.node_of(v) for v in output[1:])
        if isinstance(answer, Tensor):
            call.answers = self.node_of(answer)

    def leave_network(self, output: Any) -> None:
        """What the network answers."""
        for tensor in tensors_in(output):
            if (node := self.node_of(tensor)) is not None:
                self.outputs.add(node)
            elif id(tensor) not in self.names:
                self._find_foreign(tensor)

    def _find_foreign(self, tensor: Tensor) -> None:
        if self.recording and tensor.is_floating_point() and id(tensor) not in self._known:
            self.is_incomplete = True

    def ends(self) -> Iterator[Tensor]:
        """Companions of what nothing reads."""
        read = {m for node in self.nodes for m in node.reads}
        for n, node in enumerate(self.nodes):
            if n not in read and node.ids is not None and node.is_floating:
                yield node.ids

    def _writer_of(self, tensor: Tensor) -> int:
        """The node that wrote last to the memory of a tensor; -1: none did."""
        storage = _storage(tensor)
        known = None if storage is None else self._written.get(storage.data_ptr())
        return -1 if known is None or known[0].expired() else known[1]

    def _refer(self, value: Any, reads: list[int]) -> Any:
        if type(value) in COMMON:
            return value
        if isinstance(value, Tensor):
            if (name := self.names.get(id(value))) is not None:
                return Named(name)
            node = self.node_of(value)
            if self._written and (writer := self._writer_of(value)) > (-1 if node is None else node):
                reads.append(writer)  # through a view of the same memory
            if node is None:
                self._find_foreign(value)
                return OTHER
            reads.append(node)
            return Made(node)
        if isinstance(value, (tuple, list)):
            return tuple(self._refer(v, reads) for v in value)
        if isinstance(value, dict):
            return {key: self._refer(v, reads) for key, v in value.items()}
        return value


def _storage(tensor: Tensor) -> torch.UntypedStorage | None:
    """The memory of a tensor; None: it has none of its own."""
    try:
        storage = tensor.untyped_storage()
        storage.data_ptr()
    except (RuntimeError, NotImplementedError):
        return None
    return storage


def references(value: Any) -> Iterator[Any]:
    """The tensors of a node's arguments: `Made`, `Named` and `OTHER`."""
    if type(value) in COMMON:
        return
    if isinstance(value, (Made, Named)) or value is OTHER:
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from references(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from references(item)


def operator_name(func: Any) -> str:
    """The name: "mul" of `aten.mul_.Tensor`, of other functions what they are called, of an object its kind."""
    packet = getattr(func, "overloadpacket", None)
    name = str(getattr(packet or func, "__name__", type(func).__name__)).strip("_")
    return name.partition(".")[0]


def is_pointwise(func: Any) -> bool:
    """Does an ATen operator work on each element by itself?"""
    return torch.Tag.pointwise in getattr(func, "tags", ())
