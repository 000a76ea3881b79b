"""The units of a network that trains: all that one of them owns, moved together.

What a paper does to the filters of one convolution happens here to all coupled members of a unit: every layer that
makes it, its biases, its normalisations. A method names the kinds of parts that it acts on (see `criteria.tensors`).

Letters: `C` units of a group, `M` numbers that one unit owns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.criteria.tensors import GroupTensors, Part, parts_of
from search_spaces import ChannelGroup, Kept, SearchSpace

MADE = ("filter", "bias")  # what makes a unit
NORMS = ("scale", "shift")
OWNED = (*MADE, *NORMS, "free")  # with these at zero a unit is zero wherever the network passes zero on
ALL = (*OWNED, "reader")  # with these nothing of it is left, whatever the network does to zeros


class Units(GroupTensors):
    """The units of one group, on the parameters themselves: what a criterion looks at, and what changes them.

    A criterion may score it as any `GroupTensors`. Values are part of the graph of whoever computes with them.
    """

    @property
    def size(self) -> int:
        """How many, `C`."""
        return len(self.units)

    @property
    def device(self) -> torch.device:
        """Where they live."""
        return self.parts[0].tensor.device if self.parts else torch.device("cpu")

    def rows(self, *kinds: str) -> Tensor:
        """[C, M] everything that each unit owns in parts of these kinds; without kinds, what makes it."""
        parts = self.of(*kinds) if kinds else self.filters
        return torch.cat([p.value for p in parts], dim=1) if parts else torch.zeros(self.size, 0, device=self.device)

    def norms(self) -> Tensor:
        """[C] Euclidean norms of all the filters that make a unit."""
        found: Tensor = self.rows().norm(dim=1)
        return found

    @torch.no_grad()
    def scale_(self, factors: Tensor, kinds: Iterable[str] = MADE) -> None:
        """Multiply what each unit owns by its factor [C]."""
        if not (factors == 1).all():
            for part in self.of(*kinds):
                part.tensor.mul_(spread(part, factors, 1.0))

    @torch.no_grad()
    def clamp_(self, low: float, high: float, kinds: Iterable[str]) -> None:
        """Bring what the units own into a range."""
        for part in self.of(*kinds):
            mine = spread(part, torch.ones(self.size, dtype=torch.bool), False)
            part.tensor.copy_(torch.where(mine, part.tensor.clamp(low, high), part.tensor))

    def zero_(self, gone: Tensor, kinds: Iterable[str] = ALL) -> None:
        """Set to zero what the units [C] marked as gone own."""
        if gone.any():
            with torch.no_grad():
                for part in self.of(*kinds):
                    part.tensor.masked_fill_(spread(part, gone, False), 0)

    @torch.no_grad()
    def let_no_gradient_(self, gone: Tensor, kinds: Iterable[str] = ("filter",)) -> None:
        """Set to zero the gradients of what the units [C] marked as gone own."""
        for part in self.of(*kinds) if gone.any() else ():
            if part.tensor.grad is not None:
                part.tensor.grad.masked_fill_(spread(part, gone, False), 0)

    @torch.no_grad()
    def push_(self, strengths: Tensor, kinds: Iterable[str] = ("filter",)) -> None:
        """Add to the gradients what a penalty of strength/2 |w|^2 on each unit [C] has: strength * w."""
        if strengths.any():
            for part in self.of(*kinds):
                if part.tensor.requires_grad:
                    pull = part.tensor * spread(part, strengths, 0.0)
                    part.tensor.grad = pull if part.tensor.grad is None else part.tensor.grad.add_(pull)

    @torch.no_grad()
    def push_evenly_(self, strength: float, kinds: Iterable[str] = ("scale",)) -> None:
        """Add to the gradients what a penalty of strength * |w| on every unit has: strength * sign(w)."""
        if strength:
            for part in self.of(*kinds):
                if part.tensor.grad is not None:
                    mine = spread(part, torch.ones(self.size, device=self.device), 0.0)
                    part.tensor.grad.add_(part.tensor.sign() * mine, alpha=strength)


def spread(part: Part, values: Tensor, elsewhere: Any) -> Tensor:
    """The values [C] of the units where the part has them on its axis; the shape multiplies with the tensor."""
    tensor = part.tensor
    row = torch.full((tensor.shape[part.axis],), elsewhere, dtype=values.dtype, device=tensor.device)
    row[part.index.flatten()] = values.to(tensor.device).repeat_interleave(part.index.shape[1])
    return row.view([-1 if axis == part.axis else 1 for axis in range(tensor.dim())])


def units_of(net: nn.Module, space: SearchSpace) -> tuple[Units, ...]:
    """The units of every group of a network."""
    parameters = dict(net.named_parameters(remove_duplicate=False))
    return tuple(_units(group, parameters) for group in space.groups)


def _units(group: ChannelGroup, parameters: Mapping[str, nn.Parameter]) -> Units:
    unique: dict[Any, Part] = {}
    for part in parts_of(group, parameters):
        key = id(part.tensor), part.axis, part.index.numpy(force=True).tobytes()
        if key not in unique or part.kind == "filter":  # an embedding that is the last layer, too, makes what it reads
            unique[key] = part
    return Units(group.name, torch.arange(group.size), tuple(unique.values()))


def gone_of(space: SearchSpace, kept: Kept) -> tuple[Tensor, ...]:
    """Per group [C] which units are not kept."""
    found = []
    for group, indices in zip(space.groups, kept, strict=True):
        gone = torch.ones(group.size, dtype=torch.bool)
        gone[torch.from_numpy(np.asarray(indices))] = False
        found.append(gone)
    return tuple(found)


def kept_of(gone: Sequence[Tensor]) -> Kept:
    """The units of each group that are not gone [C]."""
    return tuple(np.flatnonzero(~g.numpy(force=True)).astype(np.int64) for g in gone)


def lowest(scores: Tensor, count: int) -> Tensor:
    """[C] whether a unit is among the `count` of lowest score; of equals the higher index goes first, as in a cut."""
    order = scores.detach().cpu().neg().argsort(stable=True)
    gone = torch.zeros(len(scores), dtype=torch.bool)
    gone[order[len(scores) - count :]] = True
    return gone
