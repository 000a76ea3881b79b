"""What has been made of parameters alone: turned about, or computed from them (see rules/)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

Place = tuple[str, int]  # a parameter, and one of its axes


@dataclass(eq=False)
class Sum:
    """A product of two parameters, summed over an axis of both, of which what is computed is a part (B @ A).

    Attributes:
        module: In which it ran.
        number: How many are summed over.
        inner: The axes that are summed over; they stay.
        outer: The axes that are left.
        counted: Are its multiply-adds noted?
    """

    module: str
    number: int
    inner: tuple[Place, ...]
    outer: tuple[tuple[Place, ...], tuple[Place, ...]]
    counted: bool = False


@dataclass(eq=False)
class ParameterView:
    """A parameter that has only been turned about, or what has been computed from several.

    Attributes:
        tensor: The view; held, because it is known by its address.
        name: Of the parameter, or of one of them.
        axes: Of which axes of what is viewed each axis is made, outermost first; of one that was spread its size,
            negative.
        resolve: Gives the view its companion, by the rule of a bare parameter.
        shape: Of what is viewed.
        places: Of which axes of parameters each axis of what is viewed is made, one element of another.
        sums: Products that it was computed with.
        computed: Is it more than turned about?
    """

    tensor: Tensor
    name: str
    axes: tuple[tuple[int, ...], ...]
    resolve: Callable[[], None]
    shape: tuple[int, ...]
    places: tuple[tuple[Place, ...], ...]
    sums: tuple[Sum, ...] = ()
    computed: bool = False

    @property
    def names(self) -> Iterable[str]:
        """All parameters that it is made of."""
        return dict.fromkeys(name for group in (*self.places, *(s.inner for s in self.sums)) for name, _ in group)

    @property
    def has_own_axes(self) -> bool:
        """Whether each of its axes is one of the parameter's, neither joined with another nor cut."""
        return all(len(group) <= 1 and min(group, default=0) >= 0 for group in self.axes)

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> ParameterView:
        """A parameter as its own view."""
        axes = tuple((d,) if n > 1 else () for d, n in enumerate(tensor.shape))
        places = tuple(((name, d),) for d in range(tensor.dim()))
        return cls(tensor, name, axes, lambda: None, tuple(tensor.shape), places)
