"""Channel counts that remember what they count.

While a model is traced, `x.shape[1]` is a `ChannelCount`: an int that knows the channels it counted. Arithmetic that
stays proportional (`c // groups`, `c * h * w`, `c1 + c2`) keeps that knowledge, so a size computed from a shape can be
told from a constant written in the code. Anything else freezes the channels, because the result would change with them.
A `Size` is a number worked out from size attributes of modules, which may follow the channels (see attributes.py).
(Floats and NumPy read an int without asking it: see tracing/literals.py and tracing/readers.py.)
"""

from __future__ import annotations

import builtins
import operator
import sys
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partialmethod
from numbers import Number
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from typing_extensions import Self

plain = operator.index  # the number itself, as an exact int


@dataclass(frozen=True)
class Attribute:
    """A whole number in an attribute of a module, or in a list or tuple there."""

    module: str
    name: str
    item: int | None = None

    def __str__(self) -> str:
        place = f"{self.module}.{self.name}" if self.module else self.name
        return place if self.item is None else f"{place}.{self.item}"


Terms = tuple[tuple["Attribute | Tensor", int], ...]  # a product of attributes and numbers of ids, with their powers


class Book(Protocol):
    """Where a count reports how it is used (the `Recorder`)."""

    def freeze(self, ids: Tensor, why: str) -> None:
        """The channels cannot follow this use."""

    def claim(self, terms: Terms, ids: Tensor | None, why: str) -> None:
        """A product of sizes always equals the number of `ids` (without: it never changes)."""

    def note(self, number: int, how: str) -> None:
        """A number was worked out of sizes, and is followed no more."""

    def promise(self, left: ChannelCount, right: ChannelCount, why: str) -> None:
        """The code relies on two counts being equal whatever is pruned."""

    def promise_divisible(self, count: ChannelCount | Size, divisor: int, why: str) -> None:
        """The code relies on a count being divisible whatever is pruned."""

    @property
    def trusted(self) -> bool:
        """Is the running code PyTorch's own, which compares sizes with attributes that shrink along?"""

    @property
    def where(self) -> str:
        """The running module, for messages."""


class Asking(int):
    """A number made by `of`; what its type makes otherwise (`type(c)(4)`, as `statistics.mean` does) is a plain one."""

    def __new__(cls, *args: Any) -> Any:
        """A plain number."""
        return int(*args)

    @classmethod
    def _made(cls, value: int) -> Self:
        return super().__new__(cls, value)

    def __copy__(self) -> Self:
        return self

    def __pos__(self) -> Self:
        return self

    def __abs__(self) -> Any:
        return self if plain(self) >= 0 else self * -1

    def __bool__(self) -> bool:
        self.must_be_whole()  # rounded down it may become 0
        return plain(self) != 0

    def must_be_whole(self) -> None:
        """It is used in a way in which it matters whether a quotient has been rounded down."""
        raise NotImplementedError

    def __divmod__(self, other: Any) -> tuple[Any, Any]:
        return self // other, self % other

    def __lshift__(self, other: Any) -> Any:
        return self * (1 << other)

    def __rshift__(self, other: Any) -> Any:
        return self // (1 << other)

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def __reduce__(self) -> Any:
        return (int, (plain(self),))

    @property
    def real(self) -> Self:
        """The number itself."""
        return self

    def conjugate(self) -> Self:
        """The number itself."""
        return self


class ChannelCount(Asking):
    """The number of `ids`, times `factor`."""

    ids: Tensor
    factor: Fraction
    book: Book

    @classmethod
    def of(cls, ids: Tensor, book: Book, factor: Fraction = Fraction(1)) -> ChannelCount:
        """Count `ids` [n] and report to `book` when the count is used in a way that cannot be followed."""
        count = cls._made(int(len(ids) * factor))
        count.ids, count.factor, count.book = ids, factor, book
        return count

    @property
    def terms(self) -> Terms:
        """What the number is proportional to."""
        return ((self.ids, 1),)

    def lose(self, what: str) -> int:
        """The plain number, at the price of freezing what was counted."""
        self.book.freeze(self.ids, f"their number enters {what} in {self.book.where}")
        return plain(self)

    def must_be_whole(self) -> None:
        """Of `c // 4 * 4` it matters whether `c` is divisible; of `c // 4` the view that has this size sees to it."""
        if self.factor.denominator > 1:
            self.book.promise_divisible(self, 1, f"{self.book.where} needs their number divisible")

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, Size):
            return other * self
        if isinstance(other, int) and not isinstance(other, ChannelCount):
            self.must_be_whole()
            return ChannelCount.of(self.ids, self.book, self.factor * other) if other else 0
        return _apply(operator.mul, "a product", self, other)

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Any:
        if isinstance(other, ChannelCount) and other.factor == self.factor and torch.equal(other.ids, self.ids):
            return 1
        if isinstance(other, Size):
            return Size.of(plain(self), self.terms, self.book) // other
        if isinstance(other, int) and not isinstance(other, ChannelCount) and other > 0 and plain(self) % other == 0:
            return ChannelCount.of(self.ids, self.book, self.factor / other)
        return _apply(operator.floordiv, "a quotient", self, other)

    def __add__(self, other: Any) -> Any:
        if isinstance(other, ChannelCount) and self.factor == other.factor:
            self.must_be_whole()
            other.must_be_whole()
            return ChannelCount.of(torch.cat([self.ids, other.ids]), self.book, self.factor)
        if isinstance(other, int) and not isinstance(other, ChannelCount) and other == 0:
            return self
        return _apply(operator.add, "a sum", self, other)

    __radd__ = __add__

    def __mod__(self, other: Any) -> Any:
        """`assert c % heads == 0`: fine wherever the rest of the code ties the channels that way."""
        if isinstance(other, Size):
            return Size.of(plain(self), self.terms, self.book) % other
        if isinstance(other, int) and not isinstance(other, ChannelCount) and other > 0 and plain(self) % other == 0:
            self.book.promise_divisible(self, other, f"{self.book.where} needs their number divisible by {other}")
            return 0
        return _apply(operator.mod, "a remainder", self, other)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Number):
            return False
        if self.book.trusted:
            return bool(plain(self) == (plain(other) if isinstance(other, int) else other))
        if isinstance(other, Size):
            return other == self
        if isinstance(other, ChannelCount) and plain(self) == plain(other):
            self.book.promise(self, other, f"{self.book.where} compares it with the number of other channels")
            return True
        return bool(_compared(self, operator.eq, other))

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = int.__hash__


class Size(Asking):
    """A number worked out from size attributes of modules: a plain factor times the product of `terms`.

    Attributes:
        terms: What it is proportional to.
        divisor: What the product has been divided by.
    """

    terms: Terms
    book: Book
    divisor: int

    @classmethod
    def of(cls, value: int, terms: Terms, book: Book, divisor: int = 1) -> Size:
        """A number, and what it is proportional to."""
        size = cls._made(value)
        size.terms, size.book, size.divisor = terms, book, divisor
        return size

    def lose(self, what: str) -> int:
        """The plain number: what it was worked out from must not change it."""
        self.book.claim(self.terms, None, f"the size {self.said} enters {what} in {self.book.where}")
        return plain(self)

    def must_be_whole(self) -> None:
        """As of a count."""
        if self.divisor > 1:
            self.book.promise_divisible(self, self.divisor, f"{self.book.where} needs {self.said} divisible")

    @property
    def said(self) -> str:
        """The attributes that it was worked out from, for messages."""
        names = [str(term) for term, _ in self.terms if isinstance(term, Attribute)]
        return " and ".join(f"'{name}'" for name in names) or "of channels"

    def __mul__(self, other: Any) -> Any:
        if isinstance(other, (Size, ChannelCount)):
            return Size.of(plain(self) * plain(other), self.terms + other.terms, self.book)
        if isinstance(other, int):
            self.must_be_whole()
            return Size.of(plain(self) * other, self.terms, self.book) if other else 0
        return _apply(operator.mul, "a product", self, other)

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Any:
        return self._over(plain(self), self.terms, other, operator.floordiv)

    def __rfloordiv__(self, other: Any) -> Any:
        if type(other) is int and other % plain(self) == 0:
            return Size.of(other // plain(self), _inverse(self.terms), self.book)
        return _apply(operator.floordiv, "a quotient", other, self)

    def __truediv__(self, other: Any) -> Any:
        if isinstance(other, (Size, ChannelCount)):
            why = f"a quotient with {self.said} in {self.book.where}"
            self.book.claim(self.terms + _inverse(other.terms), None, why)
            return plain(self) / plain(other)
        return _apply(operator.truediv, "a quotient", self, other)

    def __mod__(self, other: Any) -> Any:
        if isinstance(other, (Size, ChannelCount)) and plain(self) % plain(other) == 0:
            why = f"{self.book.where} needs {self.said} divisible"
            self.book.claim(self.terms + _inverse(other.terms), None, why)
            return 0
        return _apply(operator.mod, "a remainder", self, other)

    def _over(self, value: int, terms: Terms, other: Any, operation: Callable[..., Any]) -> Any:
        if isinstance(other, (Size, ChannelCount)) and value % plain(other) == 0:
            return Size.of(value // plain(other), terms + _inverse(other.terms), self.book)
        if type(other) is int and other > 0 and value % other == 0:
            return Size.of(value // other, terms, self.book, self.divisor * other)
        return _apply(operation, "a quotient", self, other)

    def __add__(self, other: Any) -> Any:
        return self if type(other) is int and other == 0 else _apply(operator.add, "a sum", self, other)

    __radd__ = __add__

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Number):
            return False
        if self.book.trusted:
            return bool(plain(self) == (plain(other) if isinstance(other, int) else other))
        if isinstance(other, (Size, ChannelCount)) and plain(self) == plain(other):
            why = f"{self.book.where} compares {self.said} with the number of channels"
            self.book.claim(self.terms + _inverse(other.terms), None, why)
            return True
        return bool(_compared(self, operator.eq, other))

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = int.__hash__


def _inverse(terms: Terms) -> Terms:
    return tuple((term, -power) for term, power in terms)


def _apply(operation: Callable[..., Any], what: str, *values: Any) -> Any:
    """The operation on plain numbers; the channels of every count among them are frozen."""
    out = operation(*(v.lose(what) if isinstance(v, (ChannelCount, Size)) else v for v in values))
    sizes = [v for v in values if isinstance(v, (ChannelCount, Size))]
    if type(out) is int and sizes:
        said = dict.fromkeys(v.said if isinstance(v, Size) else "a number of channels" for v in sizes)
        sizes[0].book.note(out, f"{what} makes of {' and '.join(said)}")
    return out


def _compared(number: ChannelCount | Size, operation: Callable[..., Any], other: Any) -> Any:
    """A comparison; one that comes out the same whatever is pruned, as numbers only shrink, costs nothing.

    So `if c > 512` and `x.numel() > 2**31` of what is smaller already, and `c == 64` of what is less.
    """
    shrinks = isinstance(number, ChannelCount) or all(power > 0 for _, power in number.terms)
    if shrinks and isinstance(other, (int, float)) and not isinstance(other, Asking):
        value = plain(number)
        if (value <= other) if operation in (operator.le, operator.gt) else (value < other):
            return operation(value, other)
    return _apply(operation, "a comparison", number, other)


def _asked(operation: Callable[..., Any], what: str) -> Callable[..., Any]:
    return lambda *values: _apply(operation, what, *values)


def _lossy(name: str, operation: Callable[..., Any], what: str) -> None:
    method = _asked(operation, what)
    for kind in (ChannelCount, Size):
        if f"__{name}__" not in vars(kind):
            setattr(kind, f"__{name}__", method)


def _shown(self: ChannelCount | Size, how: str = "") -> str:
    """In a text, which may be the name of a layer; how a module shows itself is for people."""
    for_people = sys._getframe(1).f_code.co_name in ("extra_repr", "__repr__")
    return format(plain(self) if for_people else self.lose("a text"), how)


def _swapped(operation: Callable[..., Any]) -> Callable[..., Any]:
    return lambda a, b: operation(b, a)


for _name in ("sub", "truediv", "pow", "divmod", "lshift", "rshift", "and", "or", "xor"):
    _function = getattr(builtins, _name, None) or getattr(operator, f"__{_name}__")  # divmod, and pow of three
    if _name not in ("divmod", "lshift", "rshift"):  # these are followed
        _lossy(_name, _function, "arithmetic")
    _lossy(f"r{_name}", _swapped(_function), "arithmetic")
_lossy("rfloordiv", _swapped(operator.floordiv), "a quotient")
_lossy("rmod", _swapped(operator.mod), "a remainder")
for _name in ("lt", "le", "gt", "ge"):
    for _kind in (ChannelCount, Size):
        setattr(_kind, f"__{_name}__", partialmethod(_compared, getattr(operator, _name)))
for _name in ("neg", "invert"):
    _lossy(_name, getattr(operator, _name), "arithmetic")
for _name, _function in {
    "float": float,
    "int": int,
    "complex": complex,
    "trunc": int,
    "floor": int,
    "ceil": int,
}.items():
    _lossy(_name, _function, f"{_name}()")
_lossy("round", round, "round()")
for _name in ("bit_length", "bit_count", "as_integer_ratio", "to_bytes"):
    _function = getattr(int, _name)
    for _kind in (ChannelCount, Size):
        setattr(_kind, _name, _asked(_function, f"{_name}()"))
for _kind in (ChannelCount, Size):
    _kind.numerator = property(_asked(int, "a fraction"))  # type: ignore[assignment, method-assign]
    _kind.__format__ = _shown  # type: ignore[assignment, method-assign]
    _kind.__str__ = _shown  # type: ignore[assignment, method-assign]
