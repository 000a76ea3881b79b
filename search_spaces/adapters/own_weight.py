"""Layers whose own forward computes the weight from the parameter `weight` alone (weight standardisation by hand)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from search_spaces.adapters.adapter import Cut, fit_sizes
from search_spaces.adapters.computed_weight import ComputedWeightAdapter
from search_spaces.adapters.weight_norm import FORWARDS
from search_spaces.adapters.weight_standardisation import StandardisedAdapter
from search_spaces.rules.layers import CONVOLUTION, bind

KINDS: dict[Any, type[nn.Module]] = {
    torch.conv1d: nn.Conv1d, torch.conv2d: nn.Conv2d, torch.conv3d: nn.Conv3d, functional.linear: nn.Linear,
}  # fmt: skip


class OwnWeightAdapter(ComputedWeightAdapter):
    """The pruned layer is a plain one, with the weight that the dense one has computed.

    What stays of a filter would be standardised to something else, say; so it is computed for good.
    """

    computes = True

    def source(self, module: nn.Module) -> str | None:
        """See `ComputedWeightAdapter.source`."""
        ours = type(module).forward not in FORWARDS and isinstance(module, tuple(KINDS.values()))
        ours = ours and StandardisedAdapter().source(module) is None
        alone = module._parameters.keys() <= {"weight", "bias"} and not module._buffers and not module._modules
        return "weight" if ours and alone and computed(module) is not None else None

    def adapt(self, module: nn.Module) -> None:
        """Make it the plain layer; how it computed its weight is kept for `fit`."""
        before = copy.copy(module)
        before._parameters = dict(module._parameters)
        found, weight = computed(module), module._parameters["weight"]
        assert found is not None
        assert weight is not None
        vars(module)["_before"] = before
        module._parameters["weight"] = nn.Parameter(found, weight.requires_grad)
        module.__class__ = next(kind for kind in KINDS.values() if isinstance(module, kind))

    def fit(self, module: nn.Module, cut: Cut) -> None:
        """See `Adapter.fit`."""
        before: Any = vars(module)["_before"]
        before._parameters.update({name: cut.dense[name] for name in before._parameters if name in cut.dense})
        found = computed(before)
        weight = module._parameters["weight"]
        assert found is not None
        assert weight is not None
        with torch.no_grad():
            weight.copy_(cut.of(found, "weight"))
        fit_sizes(module, weight, cut.per_group)


class _Calls(TorchFunctionMode):
    """Notes the calls of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Any, dict[str, Any], Any]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in KINDS:
            self.seen.append((func, bind(CONVOLUTION, args, kwargs or {}), out))
        return out


@torch.no_grad()
def computed(module: nn.Module) -> Tensor | None:
    """The weight with which the module's own forward runs the layer; None if it does anything else.

    Found by running it, on inputs as small as its kernel; two, as the weight may depend on the input, or be random.
    """
    layer: Any = module
    weight, groups = layer.weight, getattr(layer, "groups", 1)
    sizes = (k + (k - 1) * (d - 1) for k, d in zip(weight.shape[2:], getattr(layer, "dilation", ()), strict=False))
    x = weight.new_zeros(1, int(weight.shape[1]) * int(groups), *sizes)
    found, other = _used(layer, x), _used(layer, x + 1)
    return found if found is not None and other is not None and torch.equal(found, other) else None


def _used(layer: Any, x: Tensor) -> Tensor | None:
    """The weight with which it runs the layer on this input."""
    weight, calls = layer.weight, _Calls()
    try:
        with calls:
            out = layer.forward(x)
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError):
        return None
    if len(calls.seen) != 1:
        return None
    func, given, made = calls.seen[0]
    found: Tensor = given["weight"]
    same = given["input"] is x and made is out and given["bias"] is layer.bias and isinstance(layer, KINDS[func])
    if not same or found is weight or found.shape != weight.shape:
        return None
    asked = {name: given[name] for name in CONVOLUTION[3:] if given[name] is not None}
    plain = all(value == getattr(layer, name, None) for name, value in asked.items())
    return found.detach() if plain else None
