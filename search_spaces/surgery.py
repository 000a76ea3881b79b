"""`prune` builds the really smaller network; a `Dresser` turns one instance into one candidate after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from search_spaces.adapters import Adapter, Cut, adapt, fit_sizes
from search_spaces.branches.absent import Absences, within
from search_spaces.contents import caches, copy_of, named_tensors
from search_spaces.groups import IntArray
from search_spaces.inputs import INPUT, Selected, composed, selection_of, set_selection
from search_spaces.plan import Line, Plan, Stays, check_kept, plan_of
from search_spaces.shrinkable import KEPT, Shrinkable, kept_channels
from search_spaces.space import SearchSpace

SIZES = ("num_features", "num_channels", "normalized_shape")  # of normalisers


def prune(model: nn.Module, space: SearchSpace, kept: Sequence[Any]) -> nn.Module:
    """A copy of `model` that has only the kept channels: really smaller, same mode, same device.

    Args:
        model: The dense network (left as it is).
        space: Its search space.
        kept: Per group the indices of the units that stay (see `SearchSpace.kept`).

    Raises:
        ValueError: If `kept` does not fit the space, or the space does not fit the network.
    """
    return Dresser(model, space).dress(kept)


@dataclass
class CutTensor:
    """One tensor of the dense network, how it is cut, and every table of the instance in which it hangs."""

    name: str
    dense: Tensor
    cuts: list[tuple[int, Line]]
    places: list[tuple[Any, Any]]

    def cut(self, stays: Stays) -> Tensor:
        """What stays of it, in memory of its own, laid out like the dense one's."""
        dense = self.dense.detach()
        last = dense.dim() == 4 and not dense.is_contiguous() and dense.is_contiguous(memory_format=torch.channels_last)
        value, is_new = dense.permute(0, 2, 3, 1) if last else dense, False
        for axis, line in self.cuts:
            if stays.removed[line].size:
                place = (0, 3, 1, 2)[axis] if last else axis
                index = stays.on_device(line, dense.shape[axis]).to(dense.device)
                value, is_new = value.index_select(place, index), True
        value = value if is_new else value.clone()
        return value.permute(0, 3, 1, 2) if last else value


class Pack:
    """The vectors and single numbers of one kind, which are cut in one operation.

    Args:
        slots: Their numbers, and the slots.
    """

    def __init__(self, slots: Sequence[tuple[int, CutTensor]]) -> None:
        self._slots = slots

    def index(self, stays: Stays) -> IntArray:
        """Which positions stay of all of them in a row."""
        ends = np.cumsum([0, *(slot.dense.numel() for _, slot in self._slots)])
        return np.concatenate([end + self._of(slot, stays) for end, (_, slot) in zip(ends, self._slots, strict=False)])

    def cut(self, index: Tensor, stays: Stays) -> Iterator[tuple[int, Tensor]]:
        """Number and what stays of it; each counts its own changes, though they lie in one piece of memory."""
        row = torch.cat([slot.dense.detach().reshape(-1) for _, slot in self._slots]).index_select(0, index)
        sizes = [len(self._of(slot, stays)) for _, slot in self._slots]
        for (number, slot), value in zip(self._slots, row.split(sizes), strict=True):
            yield number, value.view(slot.dense.shape if slot.dense.dim() == 0 else -1).data

    @staticmethod
    def _of(slot: CutTensor, stays: Stays) -> IntArray:
        size = slot.dense.numel()
        return stays.of(slot.cuts[0][1], size) if slot.cuts else np.arange(size)

    @classmethod
    def of(cls, slots: Sequence[CutTensor], device: torch.device) -> list[Pack]:
        """A pack for each kind of those that are on the network's device."""
        kinds: dict[torch.dtype, list[tuple[int, CutTensor]]] = {}
        for number, slot in enumerate(slots):
            if slot.dense.dim() < 2 and slot.dense.numel() and slot.dense.device == device:
                kinds.setdefault(slot.dense.dtype, []).append((number, slot))
        return [cls(found) for found in kinds.values()]


class Dresser:
    """Dresses one network instance in the weights of one candidate after the other.

    Args:
        model: The dense network. Its weights are read at every `dress`, never written.
        space: Its search space.

    Raises:
        ValueError: If the space names a tensor or module that the network does not have.
    """

    def __init__(self, model: nn.Module, space: SearchSpace) -> None:
        self.space, self.plan = space, plan_of(space)
        tensors = named_tensors(model)
        self.instance = copy_of(model, (t for _, t in tensors))  # everything but the tensors
        modules = dict(self.instance.named_modules(remove_duplicate=False))
        missing = {n.rpartition(".")[0] for n in self.plan.tensors} | {*self.plan.declared, *self.plan.statistics}
        if missing := (missing - modules.keys()) | (self.plan.tensors.keys() - dict(tensors).keys()):
            raise ValueError(
                f"this space was traced from another network: {type(model).__name__} has no '{min(missing)}'"
            )
        slots: dict[int, CutTensor] = {}
        touched = dict.fromkeys(self.plan.statistics)
        for name, tensor in tensors:
            owner, _, leaf = name.rpartition(".")
            module = modules[owner]
            slot = slots.setdefault(id(tensor), CutTensor(name, tensor, [], []))
            slot.cuts.extend(self.plan.tensors.get(name, []) if not slot.cuts else [])
            tables = (module._parameters, module._buffers, vars(module))
            slot.places.append((next(table for table in tables if leaf in table), leaf))
            if slot.cuts:
                touched[owner] = None
        for module in self.instance.modules():  # lists of the same tensors (recurrent layers keep one)
            for value in vars(module).values():
                if isinstance(value, list):
                    for i, item in enumerate(value):
                        if id(item) in slots:
                            slots[id(item)].places.append((value, i))
        self._selected = {} if (selection := selection_of(model)) is None else selection.parts
        self._channels = Counter[str]()  # of each input
        for member in (m for g in (*space.groups, *space.frozen) for m in g.members if m.role == INPUT):
            self._channels[member.tensor] += member.index.size
        self._slots = list(slots.values())
        self.device = tensors[0][1].device
        self._packs = Pack.of(self._slots, self.device)
        self._axes = sorted({(line, slot.dense.shape[axis]) for slot in self._slots for axis, line in slot.cuts})
        self._refits = [
            Refit(modules[name], self.plan.grouped.get(name), self.plan.statistics.get(name)) for name in touched
        ]
        self._attributes = [
            SizeAttribute(name, modules, channels, line) for name, (channels, line) in self.plan.attributes.items()
        ]
        # Inner modules before those around them.
        self._adapted = [
            Adapted(name, modules[name], adapter, dict(tensors), self.plan)
            for name, adapter in reversed(adapt(self.instance).items())
        ]
        self._declared = [
            (modules[name], lines, kept_channels(cast(Shrinkable, modules[name])))
            for name, lines in self.plan.declared.items()
        ]
        self._named = {name: slots[id(tensor)] for name, tensor in tensors}
        self._absences = Absences(self.instance, space) if space.vanishing else None

    def stays(self, kept: Sequence[Any], packed: bool = False) -> Stays:
        """What stays in a candidate, ready on the device: for `dress` and whoever else asks.

        Args:
            kept: Per group the indices of the units that stay.
            packed: All vectors are cut in one operation, and share their memory: fewer kernels, but nothing to keep.

        Raises:
            ValueError: If `kept` does not fit the space.
        """
        kept = check_kept(self.space, kept)
        stays = Stays(self.plan.removed(kept), self._axes, self.device, [len(k) for k in kept])
        return stays.send([pack.index(stays) for pack in self._packs] if packed else ())

    def slot(self, name: str) -> CutTensor:
        """How the tensor of this name is cut."""
        return self._named[name]

    def forget(self, names: Container[str]) -> None:
        """Let go of the values of these dense tensors: from now on `dress` is given them.

        Raises:
            ValueError: If what a module computes its weight from must be known.
        """
        for adapted in self._adapted:
            if adapted.adapter.computes:
                raise ValueError(f"'{adapted.name}': computes its weight from the dense network's for every width, so "
                                 "it cannot be a part of another one")  # fmt: skip
            adapted.dense = {name: value.detach().to("meta") for name, value in adapted.dense.items()}
        for slot in self._slots:
            if slot.name in names:
                found = slot.dense.detach().to("meta")
                kind = isinstance(slot.dense, nn.Parameter)
                slot.dense = nn.Parameter(found, slot.dense.requires_grad) if kind else found

    def dress(
        self,
        kept: Sequence[Any] | Stays,
        tensors: Callable[[CutTensor, Stays], Tensor] | None = None,
        order: Sequence[IntArray] | None = None,
    ) -> nn.Module:
        """The candidate's network: always the same module object, with fresh parameters and buffers each time.

        Args:
            kept: Per group the indices of the units that stay, or what `stays` has made of them.
            tensors: Gives the tensors; default what stays of the dense ones.
            order: Where the units of `tensors` stand in another order: per group [C] the one in each place.
        """
        stays = kept if isinstance(kept, Stays) else self.stays(kept)
        if self._absences is not None:
            self._absences.clear()
        for table in caches(self.instance):  # worked out from other weights
            table.clear()
        with torch.no_grad():
            packs = zip(self._packs, stays.more, strict=True) if stays.more else ()
            vectors = {slot: value for pack, index in packs for slot, value in pack.cut(index, stays)}
            for number, slot in enumerate(self._slots):
                value = vectors.get(number)
                if value is None:
                    value = slot.cut(stays) if tensors is None else tensors(slot, stays)
                if isinstance(slot.dense, nn.Parameter):
                    value = nn.Parameter(value, slot.dense.requires_grad)
                for table, key in slot.places:
                    table[key] = value
        for shrinkable, lines, before in self._declared:
            channels = tuple(
                whole[self._contents(lines[axis], len(whole), stays, order)] if axis in lines else whole
                for axis, whole in zip((1, 0), before, strict=True)
            )
            cast(Shrinkable, shrinkable).shrink(*channels)
            setattr(shrinkable, KEPT, channels)
            shrinkable.to(self.device, non_blocking=True)  # what it made of the indices
        for refit in self._refits:
            refit(stays.removed)
        for attribute in self._attributes:
            attribute(stays.removed)
        absent = self._absences.of(stays.widths) if self._absences is not None else {}
        for module in self._adapted:
            if not within(module.name, absent):
                module.fit(stays.on_device)
        if absent:
            assert self._absences is not None
            self._absences.fill(absent, lambda name: self._named[name].cut(stays))
        if self.plan.inputs:
            selected = dict(self._selected)
            for name, (axis, line) in self.plan.inputs.items():
                size = self._channels[name]
                part = Selected(self._contents(line, size, stays, order), size, axis)
                selected[name] = composed(self._selected.get(name), part)
            set_selection(self.instance, selected)
        return self.instance

    def _contents(self, line: Line, size: int, stays: Stays, order: Sequence[IntArray] | None) -> IntArray:
        """The channels of an axis that stay, as the dense network counts them."""
        return self.plan.contents(line, size, order)[stays.of(line, size)]


class Adapted:
    """A module that an adapter answers for.

    Args:
        name: The module's name.
        module: Adapted, in the instance.
        adapter: Its adapter.
        tensors: Those of the dense network by name.
        plan: Which of their axes shrink.
    """

    def __init__(
        self, name: str, module: nn.Module, adapter: Adapter, tensors: Mapping[str, Tensor], plan: Plan
    ) -> None:
        self.name = name
        self.module, self.adapter, self.per_group = module, adapter, plan.grouped.get(name)
        before = f"{name}." if name else ""
        self.dense = {key[len(before) :]: value for key, value in tensors.items() if key.startswith(before)}
        self.lines = {(key, axis): line for key in self.dense for axis, line in plan.tensors.get(f"{before}{key}", ())}

    def fit(self, positions: Callable[[Line, int], Tensor]) -> None:
        """Fit it to its tensors; `positions` says which of an axis stay, by its line and size."""

        def kept(key: str, axis: int) -> Tensor | None:
            line = self.lines.get((key, axis))
            return None if line is None else positions(line, self.dense[key].shape[axis])

        self.adapter.fit(self.module, Cut(self.dense, kept, self.per_group))


class Refit:
    """Brings a module's size attributes in line with its tensors."""

    def __init__(self, module: nn.Module, per_group: int | None, statistics: Line | None) -> None:
        self.module, self.per_group, self.statistics = module, per_group, statistics
        self.dense = {name: getattr(module, name) for name in SIZES if name in vars(module)}

    def __call__(self, removed: Sequence[IntArray]) -> None:
        """Set them; `removed` holds the positions that go, per line."""
        fields = vars(self.module)
        weight = self.module._parameters.get("weight")
        if weight is not None:
            fit_sizes(self.module, weight, self.per_group)
        if self.statistics is not None:
            lost = int(removed[self.statistics].size)
            if self.per_group is not None and "num_groups" in fields:
                fields["num_groups"] = (self.dense["num_channels"] - lost) // self.per_group
            for name, size in self.dense.items():
                fields[name] = size - lost if isinstance(size, int) else (size[0] - lost, *size[1:])


class SizeAttribute:
    """Brings a size that stands in an attribute of a module in line with the channels that it follows.

    Args:
        name: "module.attribute", or "module.attribute.item" of a list or tuple.
        modules: The network's modules by name.
        channels: How many channels it follows in the dense network.
        line: Which ones.
    """

    def __init__(self, name: str, modules: Mapping[str, nn.Module], channels: int, line: Line) -> None:
        owner, _, leaf = name.rpartition(".")
        self.item: int | None = None
        if owner not in modules or leaf not in vars(modules[owner]):
            self.item = int(leaf)
            owner, _, leaf = owner.rpartition(".")
        self.module, self.leaf, self.channels, self.line = modules[owner], leaf, channels, line
        value = vars(self.module)[leaf]
        self.dense: int = value if self.item is None else value[self.item]

    def __call__(self, removed: Sequence[IntArray]) -> None:
        """Set it."""
        size = self.dense * (self.channels - int(removed[self.line].size)) // self.channels
        if self.item is None:
            vars(self.module)[self.leaf] = size
            return
        sizes = list(vars(self.module)[self.leaf])
        sizes[self.item] = size
        vars(self.module)[self.leaf] = type(vars(self.module)[self.leaf])(sizes)
