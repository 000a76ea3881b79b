"""Channel counts that remember what they count.

While a model is traced, `x.shape[1]` is a `ChannelCount`: an int that knows the channels it counted. Arithmetic that
stays proportional (`c // groups`, `c * h * w`, `c1 + c2`) keeps that knowledge, so a size computed from a shape can be told
from a constant written in the code. Anything else freezes the channels, because the result would change with them.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor


class ChannelCount(int):
    """The number of `ids`, times `factor`."""

    ids: Tensor
    factor: Fraction
    freeze: Callable[[Tensor, str], None]

    @classmethod
    def of(cls, ids: Tensor, freeze: Callable[[Tensor, str], None], factor: Fraction = Fraction(1)) -> ChannelCount:
        """Count `ids` [n]; `freeze(ids, why)` is called when the count is used in a way that cannot be followed."""
        count = cls(int(len(ids) * factor))
        count.ids, count.factor, count.freeze = ids, factor, freeze
        return count

    def _lost(self, operation: str) -> None:
        self.freeze(self.ids, f"their number enters {operation}")

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, ChannelCount) or not isinstance(other, int):
            return self._opaque("a product", int.__mul__, other)
        return ChannelCount.of(self.ids, self.freeze, self.factor * other) if other else 0

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Any:
        if isinstance(other, ChannelCount):  # a ratio of counts: c // c is a constant
            same = other.ids is self.ids or torch.equal(other.ids, self.ids)
            return int(self) // int(other) if same else self._opaque("a quotient", int.__floordiv__, other)
        if isinstance(other, int) and other > 0 and int(self) % other == 0:
            return ChannelCount.of(self.ids, self.freeze, self.factor / other)
        return self._opaque("a quotient", int.__floordiv__, other)

    def __add__(self, other: Any) -> Any:
        if isinstance(other, ChannelCount) and self.factor == other.factor:
            return ChannelCount.of(torch.cat([self.ids, other.ids]), self.freeze, self.factor)
        if isinstance(other, int) and other == 0:
            return self
        return self._opaque("a sum", int.__add__, other)

    __radd__ = __add__

    def _opaque(self, what: str, operation: Callable[..., Any], other: Any) -> Any:
        self._lost(what)
        if isinstance(other, ChannelCount):
            other._lost(what)
            other = int(other)
        result = operation(int(self), other)
        return operation(float(self.__int__()), other) if result is NotImplemented else result

    def __sub__(self, other: Any) -> Any:
        return self._opaque("a difference", int.__sub__, other)

    def __rsub__(self, other: Any) -> Any:
        self._lost("a difference")
        return other - int(self)

    def __truediv__(self, other: Any) -> Any:
        self._lost("a quotient")
        return int(self) / (int(other) if isinstance(other, int) else other)

    def __rtruediv__(self, other: Any) -> Any:
        self._lost("a quotient")
        return other / int(self)

    def __pow__(self, other: Any, mod: Any = None) -> Any:
        self._lost("a power")
        return int(self) ** other

    def __float__(self) -> float:
        self._lost("floating-point arithmetic")
        return float(int.__index__(self))

    def __int__(self) -> int:
        return int.__index__(self)

    def __reduce__(self) -> Any:
        return (int, (int.__index__(self),))

    __hash__ = int.__hash__
