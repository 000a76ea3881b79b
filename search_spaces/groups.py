"""Channel groups: what may be pruned.

A *unit* is a set of channels that live or die together; a `ChannelGroup` is a list of units that are alike;
a `Member` says where the units of a group live on one axis of one tensor of the network.

Letters: as in `search_spaces.space`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Member:
    """Where the units of a group live on one axis of one tensor.

    Attributes:
        tensor: State-dict name ("layer1.0.conv1.weight"), or the name of a module ("declared", "statistics").
        axis: The axis of the tensor that shrinks (of a declaring module: 0 its output side, 1 its input side).
        role: "out" (a filter that makes the channel), "direction" (of a filter whose length stands elsewhere), "in"
            (weights that read it), "norm" (batch-norm and other per-channel scales and statistics), "free" (a bare
            parameter that is added or multiplied), "declared" (a side of a module that declares how it shrinks),
            "statistics" (a normaliser whose size is an attribute), "attribute" (a size in an attribute of a module that
            follows the channels; `axis` is how many there are), "input" (what the network is fed with).
        index: [C, k] positions on that axis, one row per unit.
    """

    tensor: str
    axis: int
    role: str
    index: IntArray

    @property
    def layer(self) -> str:
        """The module that owns the tensor."""
        return self.tensor if self.role in ("declared", "statistics", "input") else layer_of(self.tensor)


def layer_of(tensor: str) -> str:
    """The module that owns a tensor; of what a parametrized weight is computed from, the layer that has the weight."""
    owner = tensor.rpartition(".")[0]
    before, found, _ = f".{owner}.".partition(".parametrizations.")
    return before[1:] if found else owner


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that live or die together, unit by unit.

    Attributes:
        name: The first layer that makes these channels.
        size: Number of units `C`.
        members: Every tensor axis the units live on.
        divisor: A legal width is a multiple of it, or `size`.
        floor: Smallest legal width; 0: the branch that the group lives in may go.
        frozen_because: Why the group cannot be pruned; empty for a prunable group.
        unit: What one unit is, for reports: "channel", or "head" of an attention.
        may_vanish: All of its units may go: they live in one branch only. Whether 0 is a legal width, `floor` says.
        stays_because: Why they may not; empty if they may.
        narrowest: Smallest legal width but 0, where the floor is 0.
    """

    name: str
    size: int
    members: tuple[Member, ...]
    divisor: int = 1
    floor: int = 1
    frozen_because: str = ""
    unit: str = "channel"
    may_vanish: bool = False
    stays_because: str = ""
    narrowest: int = 1

    def counted(self, width: int) -> str:
        """So many units, in words: "7 heads"; of channels, the number alone."""
        return str(width) if self.unit == "channel" else f"{width} {self.unit}{'' if width == 1 else 's'}"

    def choices(self) -> tuple[int, ...]:
        """Legal widths, ascending; the last one is `size`."""
        least = max(self.floor, self.narrowest) if self.floor == 0 else self.floor
        first = math.ceil(least / self.divisor) * self.divisor
        return (*([0] if self.floor == 0 else []), *range(first, self.size, self.divisor), self.size)

    def clip(self, width: float) -> int:
        """The legal width nearest to `width` (the smaller one of two equally near)."""
        return min(self.choices(), key=lambda w: (abs(w - width), w))


def group_to_json(group: ChannelGroup) -> dict[str, Any]:
    """A plain dictionary; `group_from_json` gives the same group back."""
    members = [[m.tensor, m.axis, m.role, _index_to_json(m.index)] for m in group.members]
    return {
        "name": group.name, "size": group.size, "divisor": group.divisor, "floor": group.floor,
        "frozen_because": group.frozen_because, "members": members,
        **({} if group.unit == "channel" else {"unit": group.unit}),
        **({"vanishes": [group.may_vanish, group.stays_because, group.narrowest]} if not group.frozen_because else {}),
    }  # fmt: skip


def group_from_json(data: Mapping[str, Any]) -> ChannelGroup:
    """The inverse of `group_to_json`."""
    members = tuple(Member(t, a, r, _index_from_json(i)) for t, a, r, i in data["members"])
    return ChannelGroup(
        data["name"], data["size"], members, data["divisor"], data["floor"], data["frozen_because"],
        data.get("unit", "channel"), *data.get("vanishes", (False, "", 1)),
    )  # fmt: skip


def _index_to_json(index: IntArray) -> Any:
    """A [C, k] index as `{"range": [start, C, k]}` where it is one contiguous block, else as lists."""
    if index.size and np.array_equal(index.ravel(), np.arange(index.size) + index.flat[0]):
        return {"range": [int(index.flat[0]), *index.shape]}
    return index.tolist()


def _index_from_json(data: Any) -> IntArray:
    if isinstance(data, dict):
        start, units, per_unit = data["range"]
        data = np.arange(start, start + units * per_unit).reshape(units, per_unit)
    index: IntArray = np.asarray(data, dtype=np.int64)
    return index
