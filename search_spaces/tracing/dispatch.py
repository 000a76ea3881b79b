"""Every call of the torch API and every ATen operator that a traced network runs, and the rule that answers it."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

from search_spaces.contents import tensors_in
from search_spaces.operators import OperatorMode, quiet
from search_spaces.recorder import Recorder
from search_spaces.rules import (
    arithmetic,
    attention,
    computed,
    filled,
    layers,
    losses,
    measures,
    movement,
    normalisations,
    products,
    reductions,
    repeats,
    scattering,
    sequences,
    sizes,
    spectral,
)  # fmt: skip
from search_spaces.rules.multiply_adds import multiply_adds
from search_spaces.tracing.literals import asking
from search_spaces.tracing.running import sealed

FUNCTIONS = layers.FUNCTIONS | attention.FUNCTIONS | repeats.FUNCTIONS | arithmetic.FUNCTIONS | reductions.FUNCTIONS
FUNCTIONS |= sequences.FUNCTIONS | sizes.FUNCTIONS | normalisations.FUNCTIONS
OPERATORS = arithmetic.OPERATORS | reductions.OPERATORS | products.OPERATORS | movement.OPERATORS
OPERATORS |= losses.OPERATORS | scattering.OPERATORS | spectral.OPERATORS
SUMMING = reductions.OPERATORS.keys() | losses.OPERATORS.keys() | products.OPERATORS.keys()  # rules that need elements
EXTERNAL = arithmetic.EXTERNAL  # by name: they are there when their library is
aten = torch.ops.aten
MAKING = {
    aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided, aten.zeros,
    aten.zeros_like, aten.new_zeros, aten.ones, aten.ones_like, aten.new_ones, aten.full, aten.full_like,
    aten.new_full, aten.resize_,
}  # fmt: skip


class Nested(ValueError):
    """The network makes nested tensors, which have no sizes to follow."""


class Functions(TorchFunctionMode):
    """Sees calls of the torch API: layers, sizes, and how sizes are used."""

    def __init__(self, rec: Recorder) -> None:
        super().__init__()
        self.rec = rec

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rec, kwargs = self.rec, kwargs or {}
        if rec.opaque:
            if rec.closed:
                rec.freeze_all((args, kwargs), rec.closed[-1])
            return func(*args, **kwargs)
        if (measure := measures.MEASURES.get(func)) is not None:
            return measure(rec, *args, **kwargs)
        rec.doing = func
        if (rule := FUNCTIONS.get(func)) is not None:
            nodes = len(rec.graph.nodes)
            out = rule(rec, func, args, kwargs)
            rec.graph.add_missing(func, args, kwargs, out, nodes)
            return out
        if (check := sizes.CHECKS.get(func)) is not None:
            view = rec.view_of(args[0]) if args and check not in sizes.AT_ONCE else None
            if view is not None and (view.computed or check not in sizes.WRITTEN):
                rec.unchecked = partial(check, rec, func, args, kwargs)  # once it is known how it is used
            else:
                with quiet():
                    check(rec, func, args, kwargs)
        before = rec.seen
        with rec.inside(checked=check is not None or func in sizes.SAFE):
            out = func(*args, **kwargs)
        if check is None:
            with quiet():
                filled.counted(rec, func, args, kwargs, out)
        rec.unchecked = None
        if rec.seen == before:
            unseen(rec, func, args, kwargs, out)
        return asking(out) if func is Tensor.item else out


def unseen(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """A call in which no operator ran (x.data ...) may have lost the companion on its way."""
    inputs = {id(t) for t in tensors_in((args, kwargs))}
    new = [t for t in tensors_in(out) if id(t) not in inputs and id(t) not in rec.names]
    if any(rec.companion(t) is None for t in new):
        rec.freeze_all((args, kwargs), f"'{resolve_name(func) or func}' in {rec.where}")
    rec.graph.add(func, args, kwargs, [t for t in new if rec.graph.node_of(t) is None])


class Operators(OperatorMode):
    """Applies the rule of every ATen operator to the companions."""

    def __init__(self, rec: Recorder) -> None:
        super().__init__()
        self.rec = rec

    def higher_order(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Nothing is known of what it computes: what enters it stays."""
        rec = self.rec
        rec.seen += 1
        why = rec.closed[-1] if rec.closed else f"'{func.name()}' in {rec.where} cannot be followed"
        with sealed(rec, why, (args, kwargs)):
            out = super().higher_order(func, args, kwargs)
        if not rec.opaque:
            rec.graph.add(func, args, kwargs, out)
        return out

    def operator(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run it, give the result its companion, and count the multiply-adds."""
        rec = self.rec
        rec.seen += 1
        rec.made += func.overloadpacket in MAKING
        rec.products[rec.path[-1]] += products.numbers(func, args)
        rec.see((args, kwargs), joined=func.overloadpacket is aten.cat)
        rec.before(func, args, kwargs)
        out = func(*args, **kwargs)
        if rec.opaque:
            if rec.closed:
                rec.freeze_all((args, kwargs), rec.closed[-1])
                fixed_cost(rec, func, args, out)
            return out
        if any(tensor.is_nested for tensor in tensors_in(out)):
            raise Nested(
                f"{type(rec.modules['']).__name__} makes nested tensors (in {rec.where}), which cannot be followed; "
                "have it take padded ones, with a mask"
            )
        rec.graph.add(func, args, kwargs, out)
        if rec.views and func._schema.is_mutable:
            computed.written(rec, func, args, kwargs)
        rule = OPERATORS.get(func.overloadpacket) or EXTERNAL.get(func._schema.name)
        if rule is None and torch.Tag.pointwise in func.tags:
            rule = arithmetic.pointwise
        touched = bare = False
        for tensor in tensors_in((args, kwargs)):
            bare = bare or id(tensor) in rec.names or id(tensor) in rec.views
            touched = touched or bare or rec.companion(tensor) is not None
        if bare and arithmetic.rescales(rec, func, args):
            return out
        view = computed.of_parameters(rec, func, args, kwargs, out) if bare else None
        if view is not None and rule is not None:
            later = partial(rule, rec, func, args, kwargs, out)
            view.resolve = partial(
                looked_at, rec, rec.unchecked, rec.checked, later, rec.path[-1], rec.products[rec.path[-1]]
            )
            rec.views[id(out)] = view
            return out
        if rec.unchecked is not None and bare:
            check, rec.unchecked = rec.unchecked, None
            with quiet():
                check()
        if touched:  # else it may be part of a rule that works on companions
            rec.doing = func
        if touched and func.overloadpacket in SUMMING and not all(tensor.numel() for tensor in tensors_in(args)):
            rec.freeze_all((args, kwargs), f"a tensor without elements is used in {rec.where}")
        elif rule is not None and (touched or rule is products.product):
            rule(rec, func, args, kwargs, out)
            filled.follow(rec, func, args, kwargs, out)
        elif rule is None:
            if touched:
                rec.freeze_all((args, kwargs), f"unknown operation '{func.overloadpacket}' in {rec.where}")
            fixed_cost(rec, func, args, out)
        return out


def looked_at(rec: Recorder, check: Any, checked: bool, rule: Any, module: str, number: int) -> None:
    """A view of a parameter is used otherwise than in a product: what was left out when it was made, as it was then."""
    before, rec.products[module] = rec.products[module], number
    rec.path.append(module)
    try:
        with quiet(), rec.inside(checked=checked):
            if check is not None:
                check()
            rule()
    finally:
        rec.path.pop()
        rec.products[module] = before


def fixed_cost(rec: Recorder, func: Any, args: Any, out: Any) -> None:
    """Multiply-adds of an operation whose operands cannot shrink."""
    if macs := multiply_adds(func, args, out):
        rec.multiplies("fixed", kernel=1, pixels=macs / rec.batch, reads=1, makes=1)
