"""The awkward turning, done once: every tensor of a group seen with axis 0 = the group's units.

Convolutions, linear layers, transposed, grouped and depthwise ones, slices of a concatenation and flattened inputs all
become matrices [C, M], so that no criterion needs to know a layer type.

Letters: `C` units of the group, `M` numbers that one unit owns in one tensor, `N` samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from search_spaces import ChannelGroup, Member


@dataclass(frozen=True, eq=False)
class Part:
    """What the units own on one axis of one parameter.

    Attributes:
        kind: "filter" or "bias" (make the channel), "direction" (of a filter whose length stands elsewhere), "reader"
            (weights that read it), "scale" or "shift" (of a normalisation), "free" (a bare parameter).
        tensor: The whole parameter.
        axis: The axis the units live on.
        index: [C, k] positions on that axis.
        slope: Mean gradient of the loss by the parameter, where gathered.
    """

    kind: str
    tensor: Tensor
    axis: int
    index: Tensor
    slope: Tensor | None = None

    @property
    def value(self) -> Tensor:
        """The weights, [C, M]."""
        return self._turned(self.tensor)

    @property
    def gradient(self) -> Tensor:
        """The mean gradients of the weights, [C, M].

        Raises:
            ValueError: If nobody declared the need.
        """
        if self.slope is None:
            raise ValueError("weight gradients were not gathered; who reads them declares needs = {'gradients'}")
        return self._turned(self.slope)

    @property
    def rows(self) -> Tensor:
        """The weights as the layer has them, [C k, M / k]: the k rows of each unit one after the other."""
        return self._chosen(self.tensor).flatten(1)

    def _turned(self, tensor: Tensor) -> Tensor:
        return self._chosen(tensor).reshape(len(self.index), -1)

    def _chosen(self, tensor: Tensor) -> Tensor:
        tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor  # two numbers each
        return tensor.index_select(self.axis, self.index.flatten()).movedim(self.axis, 0)


@dataclass(frozen=True, eq=False)
class GroupTensors:
    """All that a criterion may look at for one group.

    Attributes:
        name: The group's name.
        units: [C] numbers of the units within their group.
        parts: What the units own, tensor by tensor (parameters only: running statistics are no weights).
        mask_gradients: [N, C] gradient of each sample's loss by a mask on each unit, where gathered ([batches, C] of
            each batch's summed loss where a bare parameter reads the units).
        activations: By need, [C] or [C, C]: what a pass over samples found (`criteria.activations`,
            `criteria.propagation`), where gathered.
    """

    name: str
    units: Tensor
    parts: tuple[Part, ...]
    mask_gradients: Tensor | None = None
    activations: Mapping[str, Tensor] = field(default_factory=dict)

    def seen(self, need: str) -> Tensor:
        """What was gathered for a need, [C] or [C, C].

        Raises:
            ValueError: If nobody declared the need.
        """
        if need not in self.activations:
            raise ValueError(f"group '{self.name}': '{need}' was not gathered; who reads it declares needs = "
                             f"{{'{need}'}}, and score_all is given batches")  # fmt: skip
        return self.activations[need]

    def of(self, *kinds: str) -> tuple[Part, ...]:
        """The parts of these kinds."""
        return tuple(p for p in self.parts if p.kind in kinds)

    @property
    def filters(self) -> tuple[Part, ...]:
        """The weights that make the units; where nothing makes them (a bare parameter), whatever they own."""
        return self.of("filter") or self.of("reader") or self.parts

    def total(self, per_part: list[Tensor]) -> Tensor:
        """The sum of one [C] tensor per part (zeros where the group owns no parameter)."""
        return torch.stack(per_part).sum(0) if per_part else torch.zeros(len(self.units))


def collect(
    group: ChannelGroup,
    parameters: Mapping[str, nn.Parameter],
    gradients: Mapping[str, Tensor],
    masks: Tensor | None,
    activations: Mapping[str, Tensor] | None = None,
) -> GroupTensors:
    """One group's tensors out of a network's parameters.

    Args:
        group: The group.
        parameters: By state-dict name.
        gradients: Mean gradients by the same names; empty if not gathered.
        masks: [N, C], or None if not gathered.
        activations: By need, or None if not gathered.
    """
    parts = tuple(replace(p, tensor=p.tensor.detach()) for p in parts_of(group, parameters, gradients))
    return GroupTensors(group.name, torch.arange(group.size), parts, masks, activations or {})


def parts_of(
    group: ChannelGroup, parameters: Mapping[str, nn.Parameter], gradients: Mapping[str, Tensor] | None = None
) -> tuple[Part, ...]:
    """What the units own of a network's parameters: the parameters themselves."""
    slopes = gradients or {}
    return tuple(
        Part(_kind(m, tensor), tensor, m.axis, torch.from_numpy(m.index).to(tensor.device), slopes.get(m.tensor))
        for m in group.members if (tensor := parameters.get(m.tensor)) is not None
    )  # fmt: skip


def _kind(member: Member, tensor: Tensor) -> str:
    if member.role == "out":
        return "filter" if tensor.dim() > 1 else "bias"
    if member.role == "norm":
        return "shift" if member.tensor.endswith("bias") else "scale"
    return {"in": "reader", "direction": "direction"}.get(member.role, "free")
