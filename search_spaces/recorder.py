"""What a trace writes down: the companion ids of every activation, and which ids live on which tensor axis.

A *companion* is an int64 tensor of the same shape as an activation (expanded wherever it is constant, so it costs no
memory) that says which channel id lives at each position.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.channels import Channels

COMPANION = "_channel_ids"


class Recorder:
    """The state of one trace; the rules read and write it.

    Attributes:
        channels: All ids.
        axes: (tensor name, axis) -> (role, ids [n]) in order of first use.
        calls: (owner, kind) -> record of a layer that multiplies.
        path: Names of the modules being run, innermost last.
        checked: True while a function runs whose use of sizes has been examined (see rules.movement).
        opaque: Depth of regions whose insides are not traced.
        batch: Images in the example input; layers are priced per image.
        fixed: Depth of opaque modules, whose multiply-adds are counted as they are.
        counting: False in a second pass, whose layers are not part of inference.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.channels = Channels()
        self.axes: dict[tuple[str, int], tuple[str, Tensor]] = {}
        self.calls: dict[tuple[str, str], dict[str, Any]] = {}
        self.grouped: dict[str, int] = {}
        self.path: list[str] = [""]
        self.checked = False
        self.opaque = 0
        self.fixed = 0
        self.counting = True
        self.batch = 1
        self.modules = dict(model.named_modules())
        tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        self.names: dict[int, str] = {}
        for name, tensor in tensors:
            self.names.setdefault(id(tensor), name)
        self.reached: set[str] = set()

    # -- where we are --------------------------------------------------------------------------------------------
    @property
    def where(self) -> str:
        """The innermost running module, for messages."""
        return f"'{self.path[-1]}'" if self.path[-1] else "the model"

    @contextmanager
    def inside(self, *, opaque: bool = False, checked: bool = False) -> Iterator[None]:
        """Run something whose insides are not traced, or whose use of sizes has been examined."""
        before = self.checked
        self.opaque += opaque
        self.checked = checked or before
        try:
            yield
        finally:
            self.opaque -= opaque
            self.checked = before

    def name_of(self, tensor: Any) -> str | None:
        """State-dict name of a parameter or buffer, None for anything else."""
        name = self.names.get(id(tensor))
        if name is not None:
            self.reached.add(name)
        return name

    # -- companions ----------------------------------------------------------------------------------------------
    def ids(self, tensor: Tensor) -> Tensor:
        """The companion of `tensor`, same shape; zeros for a constant."""
        found = getattr(tensor, COMPANION, None)
        if found is not None and found.shape == tensor.shape:
            return found  # type: ignore[no-any-return]
        if (name := self.names.get(id(tensor))) is not None:
            return self._ids_of_parameter(name, tensor)
        return torch.zeros((), dtype=torch.int64).expand(tensor.shape)

    def _ids_of_parameter(self, name: str, tensor: Tensor) -> Tensor:
        """A bare parameter moved about: its ids lie along its only axis longer than 1, if there is just one."""
        long = [d for d, n in enumerate(tensor.shape) if n > 1]
        known = [d for d in range(tensor.dim()) if (name, d) in self.axes]
        if len(long) != 1 or (known and known != long):
            for d in known:
                self.freeze(self.axes[name, d][1], f"parameter '{name}' is used in a way that is not understood")
            return torch.zeros((), dtype=torch.int64).expand(tensor.shape)
        d = long[0]
        if not known:
            self.reached.add(name)
            self.register(name, d, self.channels.allocate(tensor.shape[d]), "free")
        return along(self.axes[name, d][1], d, tensor.shape)

    def set(self, tensor: Any, companion: Tensor | None) -> None:
        """Give `tensor` its companion."""
        if isinstance(tensor, Tensor) and id(tensor) not in self.names:
            setattr(tensor, COMPANION, companion)

    def read(self, tensor: Tensor, axis: int, why: str = "") -> Tensor:
        """The ids along `axis`, [n]: what a layer that mixes this axis reads. Ids at one index are united."""
        ids = squeeze(self.ids(tensor)).movedim(axis, 0).flatten(1)
        first = ids[:, 0]
        if ids.shape[1] > 1:
            self.channels.unite(first[:, None].expand_as(ids), ids, why or f"{self.where} reads it beside a constant")
        return first.expand(tensor.shape[axis]) if first.numel() == 1 else first

    def varying(self, tensor: Tensor) -> list[int]:
        """Axes along which the ids differ."""
        return varying(self.ids(tensor))

    def freeze(self, ids: Tensor, why: str) -> None:
        """Forbid the removal of `ids`."""
        self.channels.freeze(squeeze(ids), why)

    def freeze_all(self, values: Any, why: str) -> None:
        """Forbid the removal of every channel found in the tensors within `values`."""
        for tensor in tensors_in(values):
            if self.names.get(id(tensor)) is not None:
                for (name, _), (_, ids) in list(self.axes.items()):
                    if name == self.names[id(tensor)]:
                        self.freeze(ids, why)
            else:
                self.freeze(self.ids(tensor), why)

    # -- tensor axes ---------------------------------------------------------------------------------------------
    def register(self, name: str, axis: int, ids: Tensor, role: str) -> Tensor:
        """Note that `ids` live on one axis of a tensor; a second use unites. Returns the ids."""
        known = self.axes.get((name, axis))
        if known is None:
            self.axes[name, axis] = (role, ids)
            return ids
        self.channels.unite(known[1], ids, f"'{name}' is used twice, once with a constant")
        return known[1]

    def makes(self, name: str, axis: int, size: int) -> Tensor:
        """The ids that a filter tensor makes on `axis`: new ones at its first use."""
        known = self.axes.get((name, axis))
        return known[1] if known else self.register(name, axis, self.channels.allocate(size), "out")

    def multiplies(
        self, kind: str, *, kernel: float, pixels: float, reads: Tensor | int, makes: Tensor | int, owner: str | None = None
    ) -> None:
        """Note a layer of `pixels * kernel * reads * makes` multiply-adds (calls of the same layer add up)."""
        if not self.counting:
            return
        owner = self.path[-1] if owner is None else owner
        number = 0
        while (call := self.calls.get((owner, f"{kind}#{number}"))) is not None and not (
            call["kernel"] == kernel and _same(call["reads"], reads) and _same(call["makes"], makes)
        ):
            number += 1
        if call is None:
            call = {"kind": kind, "kernel": kernel, "pixels": 0.0, "reads": reads, "makes": makes}
            self.calls[owner, f"{kind}#{number}"] = call
        call["pixels"] += pixels


def _same(a: Tensor | int, b: Tensor | int) -> bool:
    if isinstance(a, int) or isinstance(b, int):
        return isinstance(a, int) and isinstance(b, int) and a == b
    return a.shape == b.shape  # two calls of one layer read and make united channels


def squeeze(ids: Tensor) -> Tensor:
    """Keep one position along every expanded axis (a view)."""
    return ids[tuple(slice(0, 1) if s == 0 and n > 1 else slice(None) for s, n in zip(ids.stride(), ids.shape, strict=True))]


def varying(ids: Tensor) -> list[int]:
    """Axes along which a companion is not constant."""
    small = squeeze(ids)
    return [d for d, n in enumerate(small.shape) if n > 1 and bool((small != small.narrow(d, 0, 1)).any())]


def tidy(ids: Tensor) -> Tensor:
    """The same companion, expanded again wherever it is constant."""
    small = squeeze(ids)
    for d in sorted(range(small.dim()), key=lambda d: -small.shape[d]):
        if small.shape[d] > 1:
            first = small.narrow(d, 0, 1)
            if bool((small == first).all()):
                small = first
    return small.expand(ids.shape)


def along(ids: Tensor, axis: int, shape: Sequence[int]) -> Tensor:
    """The companion of a tensor of `shape` whose ids [n] lie along `axis`."""
    axis %= len(shape)
    return ids.reshape([-1 if d == axis else 1 for d in range(len(shape))]).expand(*shape)


def tensors_in(values: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists, dicts and dataclass-like objects."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        for v in values.values():
            yield from tensors_in(v)
    elif isinstance(values, (tuple, list)):
        for v in values:
            yield from tensors_in(v)
    elif hasattr(values, "__dict__") and not isinstance(values, (nn.Module, type)):
        yield from tensors_in(vars(values))
