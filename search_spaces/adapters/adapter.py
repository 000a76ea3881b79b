"""What an adapter is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from search_spaces.recorder import Recorder


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a module that an adapter answers for.

    Attributes:
        name: The module's name in the network; empty for the network itself.
        module: The module.
        args: What it was called with.
        kwargs: By keyword.
        output: What it answered.
    """

    name: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any

    def within(self, name: str) -> str:
        """The name in the network of something that the module calls `name`."""
        return f"{self.name}.{name}" if self.name else name

    def tensor(self, name: str) -> Tensor | None:
        """A parameter or buffer of the module, None where it has none of that name."""
        owner, _, leaf = name.rpartition(".")
        value = getattr(self.module.get_submodule(owner), leaf, None)
        return value if isinstance(value, Tensor) else None


@dataclass(frozen=True, eq=False)
class Cut:
    """What one candidate keeps of a module.

    Attributes:
        dense: The module's parameters and buffers in the dense network, by their names in the module.
        kept: (name, axis) -> the positions [n] of that axis that stay; None where all do.
        per_group: Channels that each group makes, of a grouped convolution that loses whole groups.
    """

    dense: Mapping[str, Tensor]
    kept: Callable[[str, int], Tensor | None]
    per_group: int | None = None

    def of(self, value: Tensor, name: str, axes: Sequence[int] = (0, 1)) -> Tensor:
        """What stays of a tensor that has the shape of the one called `name` (or 1) along `axes`."""
        for axis in axes:
            kept = self.kept(name, axis)
            if kept is not None and value.dim() > axis and value.shape[axis] > 1:
                value = value.index_select(axis, kept)
        return value


def fit_sizes(module: nn.Module, weight: Tensor, per_group: int | None) -> None:
    """Bring the sizes in the attributes of a layer in line with its weight."""
    fields = vars(module)
    if per_group is not None and "groups" in fields:
        fields["groups"] = weight.shape[0] // per_group
    if "in_channels" in fields and "out_channels" in fields and weight.dim() > 2:
        sides = (weight.shape[0], weight.shape[1] * fields.get("groups", 1))
        fields["out_channels"], fields["in_channels"] = sides[::-1] if fields.get("transposed") else sides
    if "in_features" in fields and "out_features" in fields and weight.dim() == 2:
        fields["out_features"], fields["in_features"] = weight.shape
    if "embedding_dim" in fields and weight.dim() == 2:
        fields["embedding_dim"] = weight.shape[1]
    if "num_parameters" in fields:
        fields["num_parameters"] = weight.shape[0]


class Adapter(ABC):
    """How one kind of module that hard-codes its sizes is traced and shrinks.

    Attributes:
        opaque: The operations inside are not traced (True), or as everywhere (False).
        estimates: In training it computes with estimates of its own, as batch-norm does; `verify` leaves it in eval.
        computes: What stays follows from the values of the dense tensors, not from their places alone.
    """

    opaque: bool = True
    estimates: bool = False
    computes: bool = False

    @abstractmethod
    def handles(self, module: nn.Module) -> bool:
        """Is `module` of this kind?"""

    @abstractmethod
    def trace(self, rec: Recorder, call: Call) -> None:
        """Say which channels live where: on the module's tensors, and on what it answered.

        Axes are registered with `rec.register` and `rec.makes`, under state-dict names; the answer gets its ids with
        `rec.set`; multiply-adds are noted with `rec.multiplies`.
        """

    def exit(self, module: nn.Module) -> tuple[str, int, str | None] | None:
        """Through what all that it answers has passed: a weight, its axis that reads, and the bias added after.

        By their names in the module. Where nothing is read along that axis, the bias is the answer.
        """
        return None

    def adapt(self, module: nn.Module) -> None:  # noqa: B027  # most need nothing
        """Make the module, in place, compute what it does by the sizes of its tensors; state-dict names stay."""

    def fit(self, module: nn.Module, cut: Cut) -> None:  # noqa: B027  # some have no attributes
        """Bring an adapted module's attributes in line with its tensors, which have just been cut.

        Called for every candidate, with the same module.
        """

    def stop_reading(self, module: nn.Module, tensor: Tensor, axis: int, positions: Tensor) -> None:
        """For `mask`: a module of full size must not read the channels at these positions of a tensor that does."""
        tensor.index_fill_(axis, positions, 0)
