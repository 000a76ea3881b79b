"""`mask`: the dense network made to compute what the pruned one computes, to check one against the other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from search_spaces.operators import OperatorMode
from search_spaces.plan import check_kept, plan_of
from search_spaces.rules.layers import bind
from search_spaces.rules.products import ATTENTION, PRODUCTS, aten
from search_spaces.space import IntArray, SearchSpace


def mask(model: nn.Module, space: SearchSpace, kept: Sequence[Any]) -> nn.Module:
    """A copy of `model` at full size in which nothing reads a removed channel.

    Weights that read one are zero; matrix products that sum over channels see zeros there; normalisations across
    channels (layer-norm, group-norm) take their statistics over the kept ones.

    Raises:
        ValueError: If `kept` does not fit the space.
    """
    arrays = check_kept(space, kept)
    masked = copy.deepcopy(model)
    zero_readers(masked, space, arrays)
    plan = plan_of(space)
    removed = plan.removed(arrays)
    modules = dict(masked.named_modules(remove_duplicate=False))
    for name, line in plan.statistics.items():
        if removed[line].size:
            within(modules[name], partial(KeptStatistics, removed[line]))
    gaps = {number: removed[line] for number, line in plan.products.items() if removed[line].size}
    if gaps:
        within(masked, partial(KeptProducts, gaps))
    return masked


def zero_readers(masked: nn.Module, space: SearchSpace, kept: Sequence[IntArray]) -> None:
    """Zero the weights that read a removed channel."""
    tensors = dict(masked.named_parameters(remove_duplicate=False))
    modules = dict(masked.named_modules(remove_duplicate=False))
    with torch.no_grad():
        for group, indices in zip(space.groups, kept, strict=True):
            gone = np.setdiff1d(np.arange(group.size), indices)
            for member in group.members:
                positions = torch.from_numpy(member.index[gone].ravel())
                if member.role == "in":
                    tensor = tensors[member.tensor]
                    tensor.index_fill_(member.axis, positions.to(tensor.device), 0)
                elif member.role == "declared" and member.axis == 1:
                    modules[member.tensor].register_forward_pre_hook(_zero_input(positions))


def _zero_input(positions: Tensor) -> Callable[..., Any]:
    return lambda module, args: (args[0].index_fill(1, positions.to(args[0].device), 0), *args[1:])


def within(module: nn.Module, make: Callable[[], Any]) -> None:
    """Run the module's forward inside a fresh context."""
    open_contexts: list[Any] = []

    def enter(*_: Any) -> None:
        open_contexts.append(make())
        open_contexts[-1].__enter__()

    module.register_forward_pre_hook(enter)
    module.register_forward_hook(lambda *_: open_contexts.pop().__exit__(None, None, None), always_call=True)


class KeptStatistics(TorchFunctionMode):
    """Layer-norm and group-norm over the kept channels only; removed ones come out as zero."""

    RULES: ClassVar[dict[Any, tuple[int, tuple[str, ...]]]] = {  # function -> (axis, arguments)
        functional.layer_norm: (-1, ("input", "normalized_shape", "weight", "bias", "eps")),
        functional.rms_norm: (-1, ("input", "normalized_shape", "weight", "eps")),
        functional.group_norm: (1, ("input", "num_groups", "weight", "bias", "eps")),
    }

    def __init__(self, removed: IntArray) -> None:
        super().__init__()
        self.removed = removed

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in self.RULES:
            return func(*args, **kwargs)
        axis, names = self.RULES[func]
        given = {k: v for k, v in bind(names, args, kwargs).items() if v is not None}
        x = given["input"]
        stay = torch.from_numpy(np.setdiff1d(np.arange(x.shape[axis]), self.removed)).to(x.device)
        given |= {k: given[k].index_select(0, stay) for k in ("weight", "bias") if k in given}
        given |= {"input": x.index_select(axis, stay)} | ({"normalized_shape": (len(stay),)} if axis == -1 else {})
        return torch.zeros_like(x).index_copy(axis, stay, func(**given).to(x.dtype))


class KeptProducts(OperatorMode):
    """Matrix products, counted as the trace counted them, that sum over the kept channels only."""

    def __init__(self, gaps: dict[int, IntArray]) -> None:
        super().__init__()
        self.gaps, self.number = gaps, 0

    def operator(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run it; a product that sums over removed channels with zeros there."""
        kind = func.overloadpacket
        self.number += kind in PRODUCTS
        if kind in PRODUCTS and (gap := self.gaps.get(self.number)) is not None:
            first = 1 if kind in (aten.addmm, aten.baddbmm) else 0
            operands = list(args)
            for place, axis in ((first, -1), (first + 1, -1 if kind in ATTENTION else -2)):
                operands[place] = operands[place].index_fill(axis, torch.from_numpy(gap).to(operands[place].device), 0)
            args = tuple(operands)
        return func(*args, **kwargs)
