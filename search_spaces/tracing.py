"""`trace`: one forward pass with channel ids riding along, and out comes the search space."""

from __future__ import annotations

import copy
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from search_spaces.contents import tensors_in
from search_spaces.feeding import fed, traced_inputs
from search_spaces.inputs import exchanged, positional
from search_spaces.literals import asking
from search_spaces.operators import OperatorMode, quiet
from search_spaces.preserving import preserved
from search_spaces.readers import counts_seen
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
from search_spaces.running import custom_functions, hooks, sealed
from search_spaces.solving import Solver
from search_spaces.space import SearchSpace
from search_spaces.trying import WithoutBranches
from search_spaces.watching import forget_counts, watched

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

ONE_AT_A_TIME = threading.Lock()  # what is exchanged while a network is traced, all threads share
tracing = threading.local()  # the network of this thread


class Nested(ValueError):
    """The network makes nested tensors, which have no sizes to follow."""


def trace(model: nn.Module, example_inputs: Any, *, prune_inputs: bool = False) -> SearchSpace:
    """Find out which channels of `model` can be pruned together, by running it once.

    Args:
        model: The network; its mode and weights are left as they are.
        example_inputs: What the network takes: a tensor, a tuple of arguments, or a dict of keyword arguments.
        prune_inputs: The channels that the network is fed with (axis 1 of an input; of sequences [N, T, C] the last
            one, if its layers take that for channels) are groups, too: "input", or of several "input:image" ...

    Returns:
        The groups that may be pruned, those that may not (with the reason), and what prices every choice.

    Raises:
        ValueError: If the example inputs do not fit the network, or nothing in it can be pruned.

    Example:
        >>> space = trace(torchvision.models.resnet18(), torch.randn(1, 3, 224, 224))
        >>> space.groups[0].name, space.groups[0].size
        ('conv1', 64)
    """
    check_model(model)
    args, kwargs = as_call(example_inputs)
    if not prune_inputs:
        return traced(model, args, kwargs, {})
    return traced_inputs(model, args, kwargs, traced)


def traced(model: nn.Module, args: Any, kwargs: Any, inputs: Mapping[str, int]) -> SearchSpace:
    """See `trace`; `inputs`: name of an input (see `inputs`) -> its axis on which channels may go."""
    with alone(model), counts_seen():
        solver = Solver(recorded(model, args, kwargs, inputs, {}))
        if other := solver.stuck():
            solver = min(solver, Solver(recorded(model, args, kwargs, inputs, other)), key=lambda s: s.made_frozen)
    space = solver.space(model, WithoutBranches(model, args, kwargs))
    if not space.groups:
        frozen = sorted({f"'{g.name}': {g.frozen_because}" for g in space.frozen})
        reasons = "; ".join(frozen[:3]) or "no layer makes channels"
        raise ValueError(f"{type(model).__name__} has no group of channels that can be pruned ({reasons})")
    return space


@contextmanager
def alone(model: nn.Module) -> Iterator[None]:
    """No other network is traced.

    Raises:
        ValueError: If one is in this thread, which runs its code.
    """
    if (outer := getattr(tracing, "model", None)) is not None:
        raise ValueError(
            f"{type(outer).__name__} calls trace while it runs and is itself traced; call trace outside its forward"
        )
    with ONE_AT_A_TIME:
        tracing.model = model
        try:
            yield
        finally:
            tracing.model = None


def recorded(model: nn.Module, args: Any, kwargs: Any, inputs: Mapping[str, int], tried: dict[str, int]) -> Recorder:
    """What its passes have written down; again from the start where a bare parameter was misunderstood."""
    rec = Recorder(model, tried)
    rec.inputs = inputs
    first = next(tensors_in((args, kwargs)), None)
    rec.batch = max(int(first.shape[0]), 1) if first is not None and first.dim() else 1
    failed: ValueError | None = None
    try:
        with preserved(model) as written, watched(rec):
            rec.before = written.before
            model.eval()
            run(rec, model, args, kwargs)
            again = rec.to_try_again()
            if not again and rec.asks_mode:
                failed = run_training(rec, model, args, kwargs)
    finally:
        rec.graph.forget()
        forget_counts(model)
    if not again:
        rec.price_declared()
    if failed is not None and runs(model, args, kwargs, training=True):
        warnings.warn(f"what {type(model).__name__} does in training mode could not be followed, so that what must be "
                      f"pruned together there may not be ({failed}); see to it that `verify` passes, and please report "
                      "it, with the network", stacklevel=2)  # fmt: skip
    return recorded(model, args, kwargs, inputs, tried | again) if again else rec


def check_model(model: nn.Module) -> None:
    """Raise a ValueError for wrappers that hide the network."""
    kind = type(model).__name__
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(
            f"{kind}: a TorchScript module cannot be traced or rebuilt; give the nn.Module it was made from"
        )
    if kind in ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel"):
        raise ValueError(f"{kind} is a wrapper around the network; give the network itself: model.module")
    if kind == "OptimizedModule":
        raise ValueError(f"{kind} is a compiled wrapper around the network; give the network itself: model._orig_mod")
    for name, _ in model.named_modules():
        if not name.isprintable():
            raise ValueError(f"{kind}: the module named {name!r} has characters that nobody can see; rename it")
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if torch.nn.parameter.is_lazy(tensor):
            raise ValueError(f"{kind}: '{name}' is not initialised yet; run the network once before tracing it")
        if tensor.is_meta:
            raise ValueError(f"{kind}: '{name}' has no numbers (device meta); load the weights before tracing it")


def as_call(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Example inputs as arguments and keyword arguments."""
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    return (tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,)), {}


def run(rec: Recorder, model: nn.Module, args: Any, kwargs: Any) -> None:
    """One forward pass; freezes what leaves the network."""
    args, kwargs = detached(args), detached(kwargs)
    if rec.inputs:
        args, kwargs = exchanged(positional(model), rec.inputs, partial(fed, rec), args, kwargs)
    rec.graph.know((args, kwargs))
    shapes = ", ".join(str(tuple(t.shape)) for t in tensors_in((args, kwargs))) or "no tensor"
    try:
        with torch.no_grad(), slow_path(), hooks(rec), custom_functions(rec), Operators(rec), Functions(rec):
            output = model(*args, **kwargs)
    except Nested:
        raise
    except (Exception, SystemExit) as error:
        kind = type(model).__name__
        why = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        if runs(model, args, kwargs):  # so it is the tracing that fails, not the network
            raise ValueError(
                f"{kind} takes these inputs, but fails while it is traced (in {rec.where}): {why}; mend the rule or "
                "adapter that answers there if it is yours, else please report it, with the network"
            ) from error
        raise ValueError(f"example inputs of shape {shapes} do not fit {kind} (in {rec.where}): {why}") from error
    if next(tensors_in(output), None) is None:
        raise ValueError(
            f"{type(model).__name__} answers no tensor but {type(output).__name__}, so nothing says what must stay as "
            "it is; give a network whose forward returns what it has computed (a tensor, a tuple, a dictionary ...)"
        )
    rec.freeze_all(output, "output of the network")
    rec.graph.leave_network(output)
    if rec.graph.is_incomplete:
        for ids in rec.graph.ends():
            rec.freeze(ids, "nothing that is seen reads it, so the answer of the model may have been made of it")


def run_training(rec: Recorder, model: nn.Module, args: Any, kwargs: Any) -> ValueError | None:
    """What only runs in training (auxiliary classifiers, noise) must shrink along, but costs nothing.

    A network that wants more than the example input to train (targets, say) is traced as far as it comes.

    Returns:
        Why it came no further, if it did not.
    """
    rec.restart()
    rec.counting = rec.graph.recording = False
    model.train()
    try:
        run(rec, model, args, kwargs)
    except ValueError as error:
        return error
    return None


def runs(model: nn.Module, args: Any, kwargs: Any, *, training: bool = False) -> bool:
    """Does a copy run, in training mode or the mode that it is in, with nobody looking?"""
    with suppress(Exception, SystemExit), torch.no_grad(), torch.random.fork_rng(devices=[]):
        network = copy.deepcopy(model)
        if training:
            network.train()
        network(*detached(args), **detached(kwargs))
        return True
    return False


@contextmanager
def slow_path() -> Iterator[None]:
    """nn.TransformerEncoderLayer may run as one fused operation, in which nothing can be seen."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def detached(values: Any) -> Any:
    """Copies, so that no companion stays on the caller's tensors."""
    if isinstance(values, Tensor):
        return values.detach().clone()
    if isinstance(values, dict):
        return {k: detached(v) for k, v in values.items()}
    if isinstance(values, tuple) and hasattr(values, "_fields"):
        return type(values)(*(detached(v) for v in values))
    return type(values)(detached(v) for v in values) if isinstance(values, (tuple, list)) else values


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
