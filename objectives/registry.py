"""The costs by name, those from outside among them. The import lines are the registry."""

from __future__ import annotations

from typing import cast

import numpy as np

from objectives.costs import Activations as Activations
from objectives.costs import ArithmeticCost as ArithmeticCost
from objectives.costs import Cost, PricesBatch
from objectives.costs import Macs as Macs
from objectives.costs import Params as Params
from objectives.plugins import PluginError, find, running
from objectives.products import Floats
from objectives.target import is_latency
from search_spaces import SearchSpace

COSTS: dict[str, type[Cost]] = {
    c.name: c for c in list(globals().values()) if isinstance(c, type) and issubclass(c, Cost) and hasattr(c, "name")
}


def cost(name: str, space: SearchSpace) -> PricesBatch:
    """The cost called `name` ("macs", "params", "activations", or "package.module:Name") of a space.

    What a plug-in's name means is called with the space and must give a callable on widths [B, G].

    Raises:
        ValueError: If there is no such cost.
    """
    if is_latency(name):
        raise ValueError(f"cost '{name}': is measured, not computed; give what objectives.latency.study(...) returns")
    kind = find("cost", name, COSTS)
    if name in COSTS:
        return cast(PricesBatch, kind(space))
    with running(f"cost '{name}'", "while it was made (of the space; it must give a callable on widths [B, G])"):
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
