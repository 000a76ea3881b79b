"""Parametrizations that compute each weight, or each filter, by itself (clamping, centring, quantising per row ...)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from search_spaces.adapters.adapter import Call, Cut, fit_sizes
from search_spaces.adapters.computed_weight import ComputedWeightAdapter
from search_spaces.adapters.weight_norm import FORWARDS, LIST
from search_spaces.recorder import Recorder

SOURCE = f"{LIST}.original"


class ParametrizedAdapter(ComputedWeightAdapter):
    """Channels go from the original weight, along the axes on which its parts are computed by themselves."""

    def source(self, module: nn.Module) -> str | None:
        """Weight alone, of one original, and of the same shape."""
        if type(module).forward not in FORWARDS or not parametrize.is_parametrized(module):
            return None
        found: Any = module.parametrizations
        if list(found) != ["weight"] or not hasattr(found["weight"], "original"):
            return None
        return SOURCE if apart(found["weight"]) else None

    def trace(self, rec: Recorder, call: Call) -> None:
        """See `Adapter.trace`."""
        axes = apart(call.module.parametrizations["weight"])  # type: ignore[union-attr, index]
        for axis in {0, 1} - axes:
            why = f"the parametrization of '{call.name}' computes its weight from all of them"
            rec.whole.setdefault((call.within(SOURCE), axis), why)
        super().trace(rec, call)

    def fit(self, module: nn.Module, cut: Cut) -> None:
        """See `Adapter.fit`."""
        weight: Tensor = dict(module.named_parameters())[SOURCE]
        fit_sizes(module, weight, cut.per_group)


@torch.no_grad()
def apart(parametrization: Any) -> set[int]:
    """The axes, of 0 and 1, along which a part of the weight is computed from the same part of the original alone.

    Found by computing a half: what has parameters of its own, draws at random or cannot take a half has none.
    """
    original: Tensor = parametrization.original.detach()
    if any(True for p in parametrization.parameters() if p is not parametrization.original) or any(
        True for _ in parametrization.buffers()
    ):
        return set()
    found: set[int] = set()

    def compute(weight: Tensor) -> Tensor:
        for each in parametrization:
            weight = each(weight)
        return weight

    for axis in (0, 1):
        half = torch.arange(0, original.shape[axis], 2, device=original.device)
        try:
            whole, part = compute(original), compute(original.index_select(axis, half))
        except (RuntimeError, ValueError, IndexError, TypeError):
            return set()
        if whole.shape != original.shape or part.shape != original.index_select(axis, half).shape:
            return set()
        if torch.allclose(whole.index_select(axis, half), part, rtol=1e-4, atol=1e-7):
            found.add(axis)
    return found
