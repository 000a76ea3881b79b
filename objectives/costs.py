"""What a candidate costs, as a function of its widths: no network is built to price one.

A *cost* is anything callable on widths [B, G] that gives [B] float64 values, lower is better. One multiply-add
(MAC) counts as 1; the pruning papers' "FLOPs" are these.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, cast, overload

import numpy as np
from numpy.typing import NDArray

from objectives.plugins import PluginError, find, running
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
        self._terms = tuple(self.terms(space))
        self._sum = SumOfProducts(self._terms, len(space.groups))

    @staticmethod
    @abstractmethod
    def terms(space: SearchSpace) -> Iterable[Term]:
        """The products that add up to this cost."""

    def batch(self, widths: Floats) -> Floats:
        """Costs [B] of the candidates `widths` [B, G]."""
        return self._sum(widths)

    def parts(self, widths: Sequence[int]) -> dict[str, float]:
        """The cost of one candidate, layer by layer: layer name -> cost."""
        parts: Counter[str] = Counter()
        for term in self._terms:
            parts[term.owner] += term.at(widths)  # type: ignore[assignment]  # Counter is typed for ints
        return dict(parts)


class Macs(ArithmeticCost):
    """Multiply-adds of one image (what the pruning papers call FLOPs; 1 multiply-add = 1)."""

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
    """Output elements of all layers that multiply (convolutions, linear layers, matrix products), of one image."""

    name = "activations"
    unit = "elements"

    @staticmethod
    def terms(space: SearchSpace) -> Iterable[Term]:
        """Per layer: output pixels * channels made."""
        return (Term(x.name, x.pixels, (x.makes,)) for x in space.layers)


def is_latency(name: str) -> bool:
    """Whether a cost is milliseconds on a device, predicted and not computed: `objectives.latency` gives those."""
    return name.startswith("latency@")


def cost(name: str, space: SearchSpace) -> PricesBatch:
    """The cost called `name` ("macs", "params", "activations", or "package.module:Name") of a space.

    What a plug-in's name means is called with the space and must give a callable on widths [B, G].

    Raises:
        ValueError: If there is no such cost.
    """
    from objectives import COSTS  # the facade's import lines are the registry

    if is_latency(name):
        raise ValueError(f"cost '{name}': is measured, not computed; give what objectives.latency.study(...) returns")
    kind = find("cost", name, COSTS)
    if name in COSTS:
        return cast(PricesBatch, kind(space))
    with running(f"cost '{name}'", "while it was made"):
        made = kind(space)
    if not callable(made):
        raise ValueError(f"cost '{name}': expected a callable on widths [B, G], got {type(made).__name__}")
    return ForeignCost(name, made)


class ForeignCost:
    """A cost from outside: what it raises or answers wrongly is told in its name.

    Args:
        title: What the user called it, "package.module:Name".
        inner: Widths [B, G] -> [B].

    Attributes:
        unit: What one of it is; empty where it does not say.
    """

    def __init__(self, title: str, inner: PricesBatch) -> None:
        self._who, self._inner = f"cost '{title}'", inner
        self.unit = str(getattr(inner, "unit", ""))

    def __call__(self, widths: Floats) -> Floats:
        """The prices [B], checked.

        Raises:
            ValueError: If it fails, or does not give one finite number above 0 for each candidate.
        """
        with running(self._who, f"on the widths of {len(widths)} candidates"):
            found = self._inner(widths)
        try:
            prices = np.asarray(found, dtype=np.float64)
        except (TypeError, ValueError, RuntimeError):
            prices = np.empty(0)
        if prices.shape != (len(widths),) or not (np.isfinite(prices) & (prices > 0)).all():
            shown = " ".join(str(found).split())[:80]
            raise PluginError(
                f"{self._who}: expected one finite number above 0 for each of {len(widths)} candidates, got {shown}"
            )
        return prices
