"""`mask`: the dense network made to compute what the pruned one computes, to check one against the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from search_spaces.adapters import adapted, owner_of
from search_spaces.contents import caches, copy_of, named_tensors, tensors_in
from search_spaces.groups import IntArray
from search_spaces.operators import OperatorMode
from search_spaces.plan import check_kept, plan_of
from search_spaces.rules import reductions
from search_spaces.rules.attention import ARGUMENTS
from search_spaces.rules.layers import bind
from search_spaces.rules.normalisations import ROOT_MEAN_SQUARE
from search_spaces.rules.products import DISTANCES, PRODUCTS, aten
from search_spaces.space import SearchSpace


def mask(model: nn.Module, space: SearchSpace, kept: Sequence[Any]) -> nn.Module:
    """A copy of `model` at full size in which nothing reads a removed channel.

    Weights that read one are zero; matrix products that sum over channels see zeros there; normalisations across
    channels (layer-norm, group-norm) and other statistics of channels are taken over the kept ones. Such operations are
    known by their number in their module, as in the trace: where the network's own code loops over steps, give it as
    many as the example has (the pruned network takes any).

    Raises:
        ValueError: If `kept` does not fit the space.
    """
    arrays = check_kept(space, kept)
    masked = copy_of(model)
    zero_readers(masked, space, arrays)
    for table in caches(masked):  # worked out from other weights
        table.clear()
    plan = plan_of(space)
    removed = plan.removed(arrays)
    modules = dict(masked.named_modules(remove_duplicate=False))
    for name, line in plan.statistics.items():
        if removed[line].size:
            within(modules[name], partial(KeptStatistics, removed[line], plan.grouped.get(name)))
    gaps = {place: removed[line] for place, line in plan.products.items() if removed[line].size}
    if gaps:
        running = follow(masked)
        within(masked, partial(KeptProducts, gaps, running))
    return masked


def zero_readers(masked: nn.Module, space: SearchSpace, kept: Sequence[IntArray]) -> None:
    """Zero the weights that read a removed channel."""
    tensors = dict(named_tensors(masked))
    modules = dict(masked.named_modules(remove_duplicate=False))
    adapters = adapted(masked)
    with torch.no_grad():
        for group, indices in zip(space.groups, kept, strict=True):
            gone = np.setdiff1d(np.arange(group.size), indices)
            for member in group.members:
                positions = torch.from_numpy(member.index[gone].ravel())
                if member.role == "in":
                    tensor = tensors[member.tensor]
                    positions = positions.to(tensor.device)
                    if (owner := owner_of(member.tensor, adapters)) is not None:
                        adapters[owner].stop_reading(modules[owner], tensor, member.axis, positions)
                    else:
                        tensor.index_fill_(member.axis, positions, 0)
                elif member.role == "declared" and member.axis == 1:
                    modules[member.tensor].register_forward_pre_hook(_zero_input(positions), with_kwargs=True)


def _zero_input(positions: Tensor) -> Callable[..., Any]:
    def zeroed(module: nn.Module, args: Any, kwargs: Any) -> Any:
        x = next(tensors_in((args, kwargs)))
        without = x.index_fill(1, positions.to(x.device), 0)
        return tree_map_only(Tensor, lambda tensor: without if tensor is x else tensor, (args, kwargs))

    return zeroed


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

    RULES: ClassVar[dict[Any, tuple[str, ...]]] = {  # function -> arguments
        functional.layer_norm: ("input", "normalized_shape", "weight", "bias", "eps"),
        **dict.fromkeys(ROOT_MEAN_SQUARE, ("input", "normalized_shape", "weight", "eps")),
        functional.group_norm: ("input", "num_groups", "weight", "bias", "eps"),
    }

    def __init__(self, removed: IntArray, per_group: int | None) -> None:
        super().__init__()
        self.removed, self.per_group = removed, per_group

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in self.RULES:
            return func(*args, **kwargs)
        given = {k: v for k, v in bind(self.RULES[func], args, kwargs).items() if v is not None}
        x, shape = given["input"], given.get("normalized_shape")
        axis = 1 if shape is None else -len(shape)
        stay = torch.from_numpy(np.setdiff1d(np.arange(x.shape[axis]), self.removed)).to(x.device)
        if not len(stay):  # the branch is gone
            return torch.zeros_like(x)
        given |= {k: given[k].index_select(0, stay) for k in ("weight", "bias") if k in given}
        given["input"] = x.index_select(axis, stay)
        if shape is not None:
            given["normalized_shape"] = (len(stay), *shape[1:])
        if self.per_group is not None:  # whole groups go
            given["num_groups"] = len(stay) // self.per_group
        return torch.zeros_like(x).index_copy(axis, stay, func(**given).to(x.dtype))


def follow(model: nn.Module) -> list[str]:
    """Hooks that keep a list of the modules that are running, by name, innermost last."""
    running = [""]
    for name, module in model.named_modules():
        if name:
            module.register_forward_pre_hook(lambda *_, name=name: running.append(name))
            module.register_forward_hook(lambda *_: running.pop() and None, always_call=True)
    return running


class KeptProducts(TorchFunctionMode):
    """Products, attention and reductions, numbered in each module as in the trace, over the kept channels only."""

    def __init__(self, gaps: dict[tuple[str, int], IntArray], running: list[str]) -> None:
        super().__init__()
        self.gaps, self.running = gaps, running
        self.count: Counter[str] = Counter()
        self.operators = _Operators(self)

    def __enter__(self) -> Any:
        self.operators.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.operators.__exit__(*error)

    def next(self) -> IntArray | None:
        """The channels that what now begins must not sum over."""
        place = self.running[-1]
        self.count[place] += 1
        return self.gaps.get((place, self.count[place]))

    def reduce(self, func: Any, args: Any, kwargs: Any) -> Any:
        """A statistic, softmax or convolution over the kept channels; removed ones come out as zero."""
        x, *rest = args
        places: list[tuple[int, Tensor]] = []
        for axis in range(x.dim()):
            if (gap := self.next()) is None:
                continue
            if axis == 1 and func.overloadpacket in reductions.SLIDING:  # its channels, which it does not slide over
                x = without(x, 1, gap)
            else:
                kept = np.setdiff1d(np.arange(x.shape[axis]), gap)
                places.append((axis, torch.from_numpy(kept).to(x.device)))
        if any(not len(stay) for _, stay in places):  # the branch is gone, and whatever comes out is not read
            return func(torch.zeros_like(x), *rest, **kwargs)
        for axis, stay in places:
            x = x.index_select(axis, stay)
            if func.overloadpacket in reductions.LOSSES:
                rest[0] = rest[0].index_select(axis, stay)
        if func.overloadpacket in reductions.NORMALISATIONS and places:
            ((axis, stay),) = places
            out, *more = func(x, *_fewer(func, rest, stay), **kwargs)
            return torch.zeros_like(args[0]).index_copy(axis, stay, out), *more
        out = func(x, *rest, **kwargs)
        if func.overloadpacket not in reductions.STATISTICS | reductions.LOSSES:
            for axis, stay in places:
                out = torch.zeros_like(args[0]).index_copy(axis, stay, out)
        return out

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in ROOT_MEAN_SQUARE:
            with (
                KeptStatistics(gap, None) if (gap := self.next()) is not None else nullcontext(),
                self.operators.pause(),
            ):
                return func(*args, **(kwargs or {}))
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        given = bind(ARGUMENTS, args, kwargs or {})
        if (gap := self.next()) is not None:
            given |= {name: without(given[name], -1, gap) for name in ("query", "key")}
        with self.operators.pause():
            return func(**{k: v for k, v in given.items() if v is not None})


def _fewer(func: Any, rest: Sequence[Any], stay: Tensor) -> list[Any]:
    """The arguments of a normalisation for the kept channels."""
    given = [value.index_select(0, stay) if isinstance(value, Tensor) else value for value in rest]
    layer = func.overloadpacket is aten.native_layer_norm
    given[0 if layer else 3] = [len(stay), *given[0][1:]] if layer else len(stay)
    return given


class _Operators(OperatorMode):
    """The part of `KeptProducts` that sees the products that are no attention."""

    def __init__(self, products: KeptProducts) -> None:
        super().__init__()
        self.products, self.paused = products, False

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Products in here are parts of one that has been counted."""
        self.paused = True
        try:
            yield
        finally:
            self.paused = False

    def operator(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run it; one that sums over removed channels without them."""
        kind = func.overloadpacket
        if self.paused:
            return func(*args, **kwargs)
        if reductions.numbers(func, args):
            return self.products.reduce(func, args, kwargs)
        if kind in PRODUCTS and (gap := self.products.next()) is not None:
            first = 1 if kind in (aten.addmm, aten.baddbmm) else 0
            a, b = args[first : first + 2]
            inner = -1 if kind in DISTANCES else max(-2, -b.dim())
            args = (*args[:first], without(a, -1, gap), without(b, inner, gap), *args[first + 2 :])
        return func(*args, **kwargs)


def without(x: Tensor, axis: int, gap: IntArray) -> Tensor:
    """The tensor with zeros at these positions of an axis."""
    return x.index_fill(axis, torch.from_numpy(gap).to(x.device), 0)
