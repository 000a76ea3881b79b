"""`prune` builds the really smaller network, `mask` the same function at full size, `Dresser` re-dresses one instance."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from search_spaces.shrinkable import Shrinkable
from search_spaces.space import IntArray, Kept, SearchSpace


class Plan:
    """Which positions of which tensor axes stay: worked out once per space, applied to every candidate.

    Axes on which the same units sit at the same places (a filter, its bias, its batch-norm ...) share one line.
    """

    def __init__(self, space: SearchSpace) -> None:
        axes: dict[tuple[str, int], list[tuple[int, IntArray]]] = {}
        self.declared: dict[str, dict[int, int]] = {}
        self.statistics: dict[str, int] = {}
        roles: dict[tuple[str, int], str] = {}
        for number, group in enumerate(space.groups):
            for member in group.members:
                axes.setdefault((member.tensor, member.axis), []).append((number, member.index))
                roles[member.tensor, member.axis] = member.role
        self.lines: list[list[tuple[int, IntArray]]] = []
        self.tensors: dict[str, list[tuple[int, int]]] = {}  # tensor -> (axis, line)
        known: dict[tuple[tuple[int, int], ...], int] = {}
        for (name, axis), parts in axes.items():
            key = tuple((g, id(index)) for g, index in parts)
            if key not in known:
                known[key] = len(self.lines)
                self.lines.append(parts)
            role = roles[name, axis]
            if role == "declared":
                self.declared.setdefault(name, {})[axis] = known[key]
            elif role == "statistics":
                self.statistics[name] = known[key]
            else:
                self.tensors.setdefault(name, []).append((axis, known[key]))
        self.grouped = dict(space.grouped)

    def removed(self, kept: Sequence[IntArray], sizes: Sequence[int]) -> list[IntArray]:
        """Per line the positions that go."""
        gone = []
        for g, k in enumerate(kept):
            mask = np.ones(sizes[g], bool)
            mask[k] = False
            gone.append(np.flatnonzero(mask))
        return [np.concatenate([index[gone[g]].ravel() for g, index in parts]) for parts in self.lines]


def plan_of(space: SearchSpace) -> Plan:
    """The plan of a space, made once."""
    found = space.__dict__.get("_plan")
    if found is None:
        found = space.__dict__["_plan"] = Plan(space)
    return found  # type: ignore[no-any-return]


def check_kept(space: SearchSpace, kept: Sequence[Any]) -> Kept:
    """Kept indices as sorted int64 arrays.

    Raises:
        ValueError: If a group is missing, empty, or an index is out of range or given twice.
    """
    if len(kept) != len(space.groups):
        raise ValueError(f"kept indices for {len(kept)} groups given, but this space has {len(space.groups)}")
    arrays = tuple(np.sort(np.asarray(k, dtype=np.int64)) for k in kept)
    for group, k in zip(space.groups, arrays, strict=True):
        if not len(k) or k[0] < 0 or k[-1] >= group.size or (np.diff(k) == 0).any():
            raise ValueError(f"group '{group.name}': kept indices must be distinct, within 0..{group.size - 1} and not empty")
    return arrays


class Dresser:
    """Dresses one network instance in the weights of one candidate after the other.

    Args:
        model: The dense network. Its weights are read at every `dress`, never written.
        space: Its search space.
    """

    def __init__(self, model: nn.Module, space: SearchSpace) -> None:
        self.space, self.plan = space, plan_of(space)
        tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
        shell = copy.deepcopy(model, {id(t): t for t in tensors.values()})
        self.instance: nn.Module = shell
        modules = dict(shell.named_modules(remove_duplicate=False))
        # One entry per distinct tensor: dense value, what to cut, and every place it hangs.
        slots: dict[int, tuple[Tensor, list[tuple[int, int]], list[tuple[dict[str, Any], str]]]] = {}
        for name, tensor in tensors.items():
            owner, _, leaf = name.rpartition(".")
            module = modules[owner]
            table = module._parameters if leaf in module._parameters else module._buffers
            cuts = self.plan.tensors.get(name, [])
            slot = slots.setdefault(id(tensor), (tensor, cuts, []))
            if cuts and not slot[1]:
                slots[id(tensor)] = slot = (tensor, cuts, slot[2])
            slot[2].append((table, leaf))
        self.slots = list(slots.values())
        touched = {name.rpartition(".")[0] for name in self.plan.tensors} | set(self.plan.statistics)
        self.refits = [(name, modules[name]) for name in touched]
        self.shrinkables = [(modules[name], lines) for name, lines in self.plan.declared.items()]

    def dress(self, kept: Sequence[Any]) -> nn.Module:
        """The candidate's network: always the same module object, with fresh parameters and buffers each time."""
        arrays = check_kept(self.space, kept)
        removed = self.plan.removed(arrays, self.space.full)
        device = self.slots[0][0].device
        stays: dict[tuple[int, int], Tensor] = {}

        def positions(line: int, size: int) -> Tensor:
            found = stays.get((line, size))
            if found is None:
                mask = np.ones(size, bool)
                mask[removed[line]] = False
                found = stays[line, size] = torch.from_numpy(np.flatnonzero(mask)).to(device)
            return found

        with torch.no_grad():
            for dense, cuts, places in self.slots:
                value = dense.detach()
                whole = True
                for axis, line in cuts:
                    if removed[line].size:
                        value, whole = value.index_select(axis, positions(line, dense.shape[axis])), False
                if whole:
                    value = value.clone()
                if isinstance(dense, nn.Parameter):
                    value = nn.Parameter(value, dense.requires_grad)
                for table, leaf in places:
                    table[leaf] = value
        for module, lines in self.shrinkables:
            assert isinstance(module, Shrinkable)
            sides = (module.in_channels, module.out_channels)
            kept_in, kept_out = (
                positions(lines[axis], n).cpu().numpy() if axis in lines else np.arange(n) for axis, n in ((1, sides[0]), (0, sides[1]))
            )
            module.shrink(kept_in, kept_out)
        for name, module in self.refits:
            statistics = self.plan.statistics.get(name)
            refit(module, self.plan.grouped.get(name), None if statistics is None else self.lost(statistics, removed, name))
        return self.instance

    def lost(self, line: int, removed: list[IntArray], name: str) -> int:
        """How many channels a normaliser loses."""
        return int(removed[line].size)


def refit(module: nn.Module, per_group: int | None, lost: int | None) -> None:
    """Bring a module's size attributes in line with its tensors."""
    weight = getattr(module, "weight", None)
    fields = vars(module)
    if isinstance(weight, Tensor):
        if per_group is not None and "groups" in fields:
            fields["groups"] = weight.shape[0] // per_group
        if "in_channels" in fields and "out_channels" in fields and weight.dim() > 2:
            groups = fields.get("groups", 1)
            into, outof = (0, 1) if fields.get("transposed") else (1, 0)
            sides = {into: "in_channels", outof: "out_channels"}
            fields[sides[0]], fields[sides[1]] = weight.shape[0], weight.shape[1] * groups
        if "in_features" in fields and weight.dim() == 2:
            fields["out_features"], fields["in_features"] = weight.shape
        if "embedding_dim" in fields:
            fields["embedding_dim"] = weight.shape[1]
        if "num_parameters" in fields:
            fields["num_parameters"] = weight.shape[0]
    if lost is None:
        return
    for attribute in ("num_features", "num_channels", "normalized_shape"):
        if attribute in fields:
            dense = fields.setdefault(f"_dense_{attribute}", fields[attribute])
            size = (dense[0] if isinstance(dense, (tuple, list)) else dense) - lost
            fields[attribute] = (size,) if isinstance(dense, (tuple, list)) else size


def prune(model: nn.Module, space: SearchSpace, kept: Sequence[Any]) -> nn.Module:
    """A copy of `model` that has only the kept channels: really smaller, same mode, same device.

    Args:
        model: The dense network (left as it is).
        space: Its search space.
        kept: Per group the indices of the units that stay (see `SearchSpace.kept`).

    Raises:
        ValueError: If `kept` does not fit the space.
    """
    return Dresser(model, space).dress(kept)


def mask(model: nn.Module, space: SearchSpace, kept: Sequence[Any]) -> nn.Module:
    """A copy of `model` at full size that computes what the pruned one computes: all that reads a removed channel is zero.

    Normalisations across channels (layer-norm, group-norm) take their statistics over the kept ones.
    """
    arrays = check_kept(space, kept)
    plan = plan_of(space)
    removed = plan.removed(arrays, space.full)
    masked = copy.deepcopy(model)
    tensors = dict(masked.named_parameters(remove_duplicate=False)) | dict(masked.named_buffers(remove_duplicate=False))
    modules = dict(masked.named_modules(remove_duplicate=False))
    with torch.no_grad():
        for group, k in zip(space.groups, arrays, strict=True):
            gone = np.setdiff1d(np.arange(group.size), k)
            read = any(m.role == "in" or (m.role == "declared" and m.axis == 1) for m in group.members)
            for member in group.members:
                # Channels that only meet in a matrix product have no weights that read them: their makers are zeroed.
                if member.role == "in" or (member.role == "out" and not read):
                    tensors[member.tensor].index_fill_(member.axis, torch.from_numpy(member.index[gone].ravel()).to(tensors[member.tensor].device), 0)
                elif member.role == "declared" and member.axis == 1:
                    modules[member.tensor].register_forward_pre_hook(_zero_input(member.index[gone].ravel()))
    for name, line in plan.statistics.items():
        if removed[line].size:
            watch = KeptStatistics(removed[line])
            modules[name].register_forward_pre_hook(lambda *_, watch=watch: watch.__enter__() and None)
            modules[name].register_forward_hook(lambda *_, watch=watch: watch.__exit__(None, None, None))
    return masked


def _zero_input(channels: IntArray) -> Any:
    index = torch.from_numpy(channels)
    return lambda module, args: (args[0].index_fill(1, index.to(args[0].device), 0), *args[1:])


class KeptStatistics(TorchFunctionMode):
    """Layer-norm and group-norm over the kept channels only; removed ones come out as zero."""

    def __init__(self, removed: IntArray) -> None:
        super().__init__()
        self.removed = removed

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        axis = {functional.layer_norm: -1, functional.rms_norm: -1, functional.group_norm: 1}.get(func)
        if axis is None:
            return func(*args, **kwargs)
        names = ("input", "num_groups" if axis == 1 else "normalized_shape", "weight", "bias")
        a = dict(zip(names, args, strict=False)) | kwargs
        x = a["input"]
        stay = torch.from_numpy(np.setdiff1d(np.arange(x.shape[axis]), self.removed)).to(x.device)
        small = {k: v.index_select(0, stay) for k in ("weight", "bias") if (v := a.get(k)) is not None}
        size = a["num_groups"] if axis == 1 else (len(stay),)
        y = func(x.index_select(axis, stay), size, **small, **({"eps": a["eps"]} if "eps" in a else {"eps": args[4]} if len(args) > 4 else {}))
        return torch.zeros_like(x).index_copy(axis, stay, y)
