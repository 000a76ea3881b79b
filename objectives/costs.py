"""What a candidate costs, as a function of its widths: no network is built to price one.

A *cost* is anything callable on widths [B, G] that gives [B] float64 values, lower is better. One multiply-add
(MAC) counts as 1; the pruning papers' "FLOPs" are these.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, overload

import numpy as np
from numpy.typing import NDArray

from objectives.products import Floats, SumOfProducts, Term
from search_spaces import SearchSpace

PricesBatch = Callable[[Floats], Any]  # widths [B, G] -> [B], all that a plug-in must be


class Cost(ABC):
    """What a candidate costs.

    Attributes:
        name: The word of the command line ("macs").
        unit: What one of it is.
    """

    name: ClassVar[str]
    unit: ClassVar[str]

    @abstractmethod
    def batch(self, widths: Floats) -> Floats:
        """Costs [B] of the candidates `widths` [B, G]."""

    @overload
    def __call__(self, widths: Sequence[int]) -> float: ...
    @overload
    def __call__(self, widths: NDArray[Any]) -> Floats: ...
    def __call__(self, widths: Sequence[int] | NDArray[Any]) -> float | Floats:
        """The cost of one candidate (widths [G] -> float) or of many ([B, G] -> [B])."""
        table = np.asarray(widths, dtype=np.float64)
        return self.batch(table) if table.ndim == 2 else float(self.batch(table[None])[0])


class ArithmeticCost(Cost):
    """A cost that is a sum of products of kept axis lengths."""

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._terms = tuple(self.terms(space))
        self._sum = SumOfProducts(self._terms, len(space.groups))
        self._absent = _absent(space, self._terms)

    @staticmethod
    @abstractmethod
    def terms(space: SearchSpace) -> Iterable[Term]:
        """The products that add up to this cost."""

    def batch(self, widths: Floats) -> Floats:
        """Costs [B] of the candidates `widths` [B, G]."""
        vanishing = self._space.vanishing
        if vanishing is None or widths.all():
            return self._sum(widths)
        widths = vanishing.settled(widths)
        values, gone = self._sum(widths), vanishing.gone(widths)
        for branches, absent in self._absent:
            rows = gone[:, branches].any(axis=1)
            if rows.any():
                values[rows] -= absent(widths[rows])
        return values

    def parts(self, widths: Sequence[int]) -> dict[str, float]:
        """The cost of one candidate, layer by layer: layer name -> cost."""
        gone, widths = self._space.removed(widths), self._space.settled(widths)
        parts: Counter[str] = Counter()
        for term in self._terms:
            cost = 0.0 if any(b.holds(term.owner) for b in gone) else term.at(widths)
            parts[term.owner] += cost  # type: ignore[assignment]  # Counter is typed for ints
        return dict(parts)


def _absent(space: SearchSpace, terms: Sequence[Term]) -> list[tuple[list[int], SumOfProducts]]:
    """What goes with branches though its channels do not (norms of the stream, say): which of them, and its cost.

    A layer inside several branches goes with the innermost ones.
    """
    found: dict[tuple[int, ...], list[Term]] = {}
    for term in terms if space.vanishing is not None else ():
        holding = [n for n, branch in enumerate(space.branches) if branch.holds(term.owner)]
        inner = [
            n
            for n in holding
            if not any(set(space.branches[m].groups) < set(space.branches[n].groups) for m in holding)
        ]
        zero = [
            any(not a.fixed and {g for g, _ in a.terms} <= set(space.branches[n].groups) for a in term.axes)
            for n in inner
        ]
        if inner and not all(zero):
            found.setdefault(tuple(inner), []).append(term)
    return [(list(branches), SumOfProducts(part, len(space.groups))) for branches, part in found.items()]


class Macs(ArithmeticCost):
    """Multiply-adds of one sample (what the pruning papers call FLOPs; 1 multiply-add = 1)."""

    name = "macs"
    unit = "MACs"

    @staticmethod
    def terms(space: SearchSpace) -> Iterable[Term]:
        """Per layer: output pixels * kernel area * channels read * channels made."""
        return (Term(x.name, x.pixels * x.kernel, (x.reads, x.makes)) for x in space.layers)


class Params(ArithmeticCost):
    """Parameters of the network."""

    name = "params"
    unit = "parameters"

    @staticmethod
    def terms(space: SearchSpace) -> Iterable[Term]:
        """Per tensor: the product of its axes."""
        return (Term(t.name.rpartition(".")[0] or t.name, 1.0, t.axes) for t in space.tensors)


class Activations(ArithmeticCost):
    """Output elements of all layers that multiply (convolutions, linear layers, matrix products), of one sample."""

    name = "activations"
    unit = "elements"

    @staticmethod
    def terms(space: SearchSpace) -> Iterable[Term]:
        """Per layer: output pixels * channels made."""
        return (Term(x.name, x.pixels, (x.makes,)) for x in space.layers)
