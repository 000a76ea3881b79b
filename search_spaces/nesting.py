"""Several networks in one set of weights: a smaller one's units are the first ones of the larger one's, in every group.

The units of every group are put into one order, those of the smallest network first. Then a filter, a batch-norm or a
reader of a smaller network is a slice of the larger one's tensor, and switching copies nothing. Where the positions of
the units that stay are no one contiguous range of an axis - several groups side by side (a concatenation), or a unit
with places in several parts (chunk, query-key-value, the members of a group-norm) - no slice has them: such a tensor is
copied by index when it is switched to, and `NestedNetwork.copied` counts the bytes. Statistics of batch-norms are each
level's own.

Hierarchical sub-models: METHODS 2.16; own statistics: Yu et al. 2019, "Slimmable neural networks",
https://arxiv.org/abs/1812.08928.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase

from search_spaces.contents import copy_of
from search_spaces.groups import IntArray
from search_spaces.plan import Stays
from search_spaces.space import Kept, SearchSpace, Widths
from search_spaces.surgery import CutTensor, Dresser

SCALES = ("weight", "bias")  # of a normalisation


class NestedNetwork(nn.Module):
    """A network that can be switched between levels while it runs.

    Attributes:
        space: Of the dense network.
        order: Per group [C] the units, those of the smallest level first.
        levels: Name of each level -> its widths, from the largest to the smallest.
        level: The one that it computes now.

    Args:
        dense: The dense network: what the levels are cut from. Left as it is.
        space: See above.
        order: See above.
        levels: See above.
        scales: Whether each level has scales and shifts of its batch-norms of its own, too.

    Raises:
        ValueError: If the levels are not nested, a branch is gone in one, or the network cannot be nested.
    """

    def __init__(
        self,
        dense: nn.Module,
        space: SearchSpace,
        order: Sequence[IntArray],
        levels: Mapping[str, Widths],
        scales: bool = False,
    ) -> None:
        super().__init__()
        self.space, self.levels, self.scales = space, {n: space.check(w) for n, w in levels.items()}, scales
        self.order: Kept = tuple(np.asarray(o, dtype=np.int64) for o in order)
        _check(self)
        self.names = tuple(self.levels)
        self.level = self.names[0]
        first = Dresser(dense, space)
        self.largest = first.dress(self._kept(self.level), partial(_ordered, first, self.order), self.order)
        self.largest = copy_of(self.largest)  # its tensors belong to nobody else
        self._dresser = Dresser(dense, space)
        self._dresser.forget(set(self.largest.state_dict(keep_vars=True)))
        self._known: dict[str, Stays] = {}
        self._ready = self.largest
        own = [n for n, m in self.largest.named_modules() if isinstance(m, _NormBase) and m.running_mean is not None]
        names = {f"{n}.{leaf}" if n else leaf for n in own for leaf in self._leaves(self.largest.get_submodule(n))}
        self.own = nn.ModuleList(_Own(self, name, names) for name in self.names[1:])
        self.train(dense.training)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network of this level answers."""
        return self._ready(*args, **kwargs)

    @property
    def stands_for(self) -> nn.Module:
        """A network whose arguments it takes."""
        return self.largest

    @property
    def _own(self) -> list[_Own]:
        return [own for own in self.own if isinstance(own, _Own)]

    @property
    def network(self) -> nn.Module:
        """The network of this level, whose tensors are those of this one, or slices of them."""
        return self._ready

    def switch(self, level: str) -> NestedNetwork:
        """Compute another level from now on; returns itself.

        Args:
            level: One of `levels`, e.g. "macs<=15%".

        Raises:
            ValueError: If there is none of that name.
        """
        self.level = self.named(level)
        self._ready = self._dressed(self.level) if self.level != self.names[0] else self.largest
        self._ready.train(self.training)
        return self

    def named(self, level: str) -> str:
        """The name of a level as it stands in `levels`.

        Raises:
            ValueError: If there is none.
        """
        if (found := "".join(str(level).split())) not in self.levels:
            raise ValueError(f"level '{level}': this network has {', '.join(self.names)}")
        return found

    @property
    def copied(self) -> int:
        """Bytes of this level that are copies: parameters that are no slices."""
        stored = {t.untyped_storage().data_ptr() for t in (*self.parameters(), *self.buffers())}
        return sum(p.nbytes for p in self._ready.parameters() if p.untyped_storage().data_ptr() not in stored)

    def trained_at(self, level: str) -> nn.Module:
        """The network of a level in train mode, through whose tensors gradients reach those of this one.

        Until another one is asked for; meanwhile this one computes the largest level.
        """
        level = self.named(level)
        net = self._dressed(level).train()
        found = {name: self._value(self._dresser.slot(name), level) for name, _ in net.named_parameters()}
        return Sliced(net, found)

    def alone(self, level: str) -> tuple[nn.Module, Kept]:
        """The network of a level as `prune` would have made it, in memory of its own; and the units that it keeps."""
        level = self.named(level)
        kept = tuple(np.sort(o[:w]) for o, w in zip(self.order, self.levels[level], strict=True))

        def back(slot: CutTensor, stays: Stays) -> Tensor:
            value = self._value(slot, level)
            for axis, line in slot.cuts:
                size = slot.dense.shape[axis]
                places = np.argsort(self._dresser.plan.contents(line, size, self.order))[stays.of(line, size)]
                there = np.searchsorted(self._stays(level).of(line, size), places)
                value = value.index_select(axis, torch.from_numpy(there).to(value.device))
            return value

        with torch.no_grad():
            net = copy_of(self._dresser.dress(kept, back))
        self.switch(self.level)
        return net.train(self.training), kept

    def spread(self, dense: nn.Module) -> nn.Module:
        """A copy of the dense network with the largest level's tensors in it, each unit in its own place."""
        small, kept = self.alone(self.names[0])
        net, plan = copy_of(dense), self._dresser.plan
        stays, found = self._dresser.stays(kept), {**dict(small.named_parameters()), **dict(small.named_buffers())}
        with torch.no_grad():
            for name, tensor in (*net.named_parameters(), *net.named_buffers()):
                places = [np.arange(size) for size in tensor.shape]
                for axis, line in plan.tensors.get(name, ()):
                    places[axis] = stays.of(line, tensor.shape[axis])
                if name in found and tensor.dim():
                    tensor[np.ix_(*places)] = found[name].to(tensor.device)
        return net

    def train(self, mode: bool = True) -> NestedNetwork:
        """See `nn.Module.train`."""
        super().train(mode)
        self._ready.train(mode)
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> NestedNetwork:
        super()._apply(fn, recurse)
        self._dresser.device = next(self.parameters()).device
        return self.switch(self.level)  # slices of what is there now

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        self.switch(self.level)  # a copy's slices are of the copy

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_ready":  # no child: its tensors are those of another one
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @staticmethod
    def _leaves(norm: nn.Module) -> list[str]:
        return [n for n, _ in norm.named_buffers(recurse=False)] + [n for n, _ in norm.named_parameters(recurse=False)]

    def _kept(self, level: str) -> Kept:
        return tuple(np.arange(w) for w in self.levels[level])

    def _stays(self, level: str) -> Stays:
        if level not in self._known:
            self._known[level] = self._dresser.stays(self._kept(level))
        return self._known[level]

    def _dressed(self, level: str) -> nn.Module:
        def value(slot: CutTensor, stays: Stays) -> Tensor:
            return self._value(slot, level)

        return self._dresser.dress(self._stays(level), value, self.order)

    def _value(self, slot: CutTensor, level: str) -> Tensor:
        """A tensor of a level: its own, or its part of the largest one's."""
        number = self.names.index(level)
        if number and (own := self._own[number - 1].of(slot.name)) is not None:
            return own
        owner, _, leaf = slot.name.rpartition(".")
        return self.sliced(getattr(self.largest.get_submodule(owner), leaf), slot, level)

    def sliced(self, value: Tensor, slot: CutTensor, level: str) -> Tensor:
        """The part of a tensor of the largest network that a level has: a slice, or where there is none a copy."""
        whole, stays = self._stays(self.names[0]), self._stays(level)
        for axis, line in slot.cuts:
            size = slot.dense.shape[axis]
            there = np.searchsorted(whole.of(line, size), stays.of(line, size))
            start = int(there[0])
            if np.array_equal(there, np.arange(start, start + len(there))):
                value = value.narrow(axis, start, len(there))
            else:
                value = value.index_select(axis, torch.from_numpy(there).to(value.device))
        return value


class Sliced(nn.Module):
    """A narrower network whose parameters are slices of another one's.

    Args:
        net: Of its shape.
        slices: Its parameters by name.
    """

    def __init__(self, net: nn.Module, slices: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.net, self.slices = net, dict(slices)

    @property
    def stands_for(self) -> nn.Module:
        """The network whose arguments it takes."""
        return self.net

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What it answers."""
        return functional_call(self.net, self.slices, args, kwargs)


class _Own(nn.Module):
    """What one level has for itself: statistics of batch-norms, and perhaps their scales.

    Args:
        net: The network.
        level: The level.
        names: Of everything that belongs to batch-norms.
    """

    def __init__(self, net: NestedNetwork, level: str, names: set[str]) -> None:
        super().__init__()
        state = net.largest.state_dict(keep_vars=True)
        self.known = {}
        for name in sorted(names & state.keys()):
            value, key = net.sliced(state[name], net._dresser.slot(name), level), name.replace(".", "/")
            if not isinstance(state[name], nn.Parameter):
                self.register_buffer(key, value.detach().clone())
            elif net.scales:
                self.register_parameter(key, nn.Parameter(value.detach().clone(), value.requires_grad))
            else:
                continue
            self.known[name] = key

    def of(self, name: str) -> Tensor | None:
        """The tensor of this name in the network; None: it has none of its own."""
        found: Tensor | None = getattr(self, self.known[name]) if name in self.known else None
        return found


def _ordered(dresser: Dresser, order: Kept, slot: CutTensor, stays: Stays) -> Tensor:
    """What stays of a dense tensor, with the units in their order."""
    value = slot.dense.detach()
    for axis, line in slot.cuts:
        size = slot.dense.shape[axis]
        places = dresser.plan.contents(line, size, order)[stays.of(line, size)]
        value = value.index_select(axis, torch.from_numpy(places).to(value.device))
    return value


def _check(net: NestedNetwork) -> None:
    """Check that the levels are nested, and the orders are such.

    Raises:
        ValueError: Naming the level or the group.
    """
    names = list(net.levels)
    if not names:
        raise ValueError("nested networks: at least one level is needed")
    for group, units in zip(net.space.groups, net.order, strict=True):
        if sorted(units.tolist()) != list(range(group.size)):
            raise ValueError(f"group '{group.name}': the order must name each of its {group.size} units once")
    for larger, smaller in itertools.pairwise(names):
        for group, a, b in zip(net.space.groups, net.levels[larger], net.levels[smaller], strict=True):
            if b > a:
                raise ValueError(f"level '{smaller}': keeps {b} units of group '{group.name}', more than the {a} of "
                                 f"'{larger}', so it is not nested in it")  # fmt: skip
    if empty := [g.name for g, w in zip(net.space.groups, net.levels[names[-1]], strict=True) if not w]:
        raise ValueError(f"level '{names[-1]}': group '{empty[0]}' has no units left, and levels keep all branches; "
                         "leave depth off")  # fmt: skip
