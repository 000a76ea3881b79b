"""Gates on the units of a network that trains: where a unit is read, its values are multiplied by its gate.

Letters: `N` samples, `C` units of a group, `I` positions on the channel axis of a layer's input or output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from autoprune.criteria.sites import channel_axis, members_seen, positions, site_of, tap
from autoprune.training.opened import Opened
from search_spaces import SearchSpace

# Group number, mean values of its units where they are read [N, C] -> gates [C] or [N, C].
GateOf = Callable[[int, Tensor], Tensor]


class Gating:
    """Multiplies every unit of a network that may go by its gate, at everything that reads it.

    Args:
        net: The network; it has hooks until `remove`.
        space: Its groups.
        gate_of: Asked anew in each pass, at each place.

    Raises:
        ValueError: If a group is read by no layer.
    """

    def __init__(self, net: nn.Module, space: SearchSpace, gate_of: GateOf) -> None:
        modules = dict(net.named_modules(remove_duplicate=False))
        places: dict[tuple[str, str], list[tuple[int, Tensor]]] = {}
        for number, group in enumerate(space.groups):
            if group.floor == group.size:
                continue
            members = members_seen(group, modules, {})
            if not members:
                raise ValueError(f"group '{group.name}': gates need a layer that reads or makes the channels, found "
                                 "none of them (but recurrent ones, or bare tensors); freeze it, or use a method "
                                 "without gates")  # fmt: skip
            for member in members:
                index = (number, positions(member, modules))
                known = places.setdefault(site_of(member, modules), [])
                if not any(n == number and torch.equal(i, index[1]) for n, i in known):
                    known.append(index)
        self._opened = Opened(net)
        self.hooks: list[RemovableHandle] = [
            tap(modules[name], side, _Gate(channel_axis(modules[name]), groups, gate_of))
            for (name, side), groups in places.items()
        ]

    def remove(self) -> None:
        """No more gates."""
        for hook in self.hooks:
            hook.remove()
        self._opened.close()


class _Gate:
    """The gates at one place.

    Args:
        axis: Of the channels.
        groups: Of each group that lives there, its number and its positions [C, k].
        gate_of: See `Gating`.
    """

    def __init__(self, axis: int, groups: list[tuple[int, Tensor]], gate_of: GateOf) -> None:
        self.axis, self.groups, self.gate_of = axis, groups, gate_of

    def __call__(self, value: Tensor) -> Any:
        """The values, gated."""
        rows = value.detach().movedim(self.axis, -1)
        rows = rows.reshape(len(rows), -1, rows.shape[-1]).mean(1)  # [N, I]
        factors = torch.ones_like(rows)
        for number, index in self.groups:
            place = index.to(value.device)
            gate = self.gate_of(number, rows[:, place].mean(-1)).to(value.dtype)
            spread = gate.expand(len(rows), -1).repeat_interleave(place.shape[1], dim=1)
            factors = factors.index_copy(1, place.flatten(), spread.to(factors.dtype))
        shape = [1] * value.dim()
        shape[0], shape[self.axis] = factors.shape
        return value * factors.view(shape)
