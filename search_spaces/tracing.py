"""`trace`: one forward pass with channel ids riding along, and out comes the search space."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from search_spaces.counts import ChannelCount
from search_spaces.recorder import COMPANION, Recorder, along, tensors_in
from search_spaces.rules import arithmetic, attention, layers, movement
from search_spaces.shrinkable import Shrinkable
from search_spaces.solving import Solver
from search_spaces.space import SearchSpace

FUNCTIONS = layers.FUNCTIONS | attention.FUNCTIONS
OPERATORS = arithmetic.OPERATORS | movement.OPERATORS
CREATE = {torch.zeros, torch.ones, torch.empty, torch.full, torch.rand, torch.randn} | {
    torch.Tensor.new_zeros, torch.Tensor.new_ones, torch.Tensor.new_empty, torch.Tensor.new_full,
}  # fmt: skip


def trace(model: nn.Module, example_inputs: Any) -> SearchSpace:
    """Find out which channels of `model` can be pruned together, by running it once.

    Args:
        model: The network; its mode and weights are left as they are.
        example_inputs: What the network takes: a tensor, a tuple of arguments, or a dict of keyword arguments.

    Returns:
        The groups that may be pruned, those that may not (with the reason), and what prices every choice.

    Raises:
        ValueError: If the example inputs do not fit the network, or nothing in it can be pruned.

    Example:
        >>> space = trace(torchvision.models.resnet18(), torch.randn(1, 3, 224, 224))
        >>> space.groups[0].name, space.groups[0].size
        ('conv1', 64)
    """
    rec = Recorder(model)
    args, kwargs = as_call(example_inputs)
    first = next(tensors_in((args, kwargs)), None)
    rec.batch = max(int(first.shape[0]), 1) if first is not None and first.dim() else 1
    with preserved(model):
        model.eval()
        run(rec, model, args, kwargs, example_inputs)
        if {name for name, _ in model.named_parameters()} - rec.reached:
            # Some layers only run in training (auxiliary classifiers): they must shrink along, but cost nothing.
            rec.counting = False
            model.train()
            try:
                run(rec, model, args, kwargs, example_inputs)
            except ValueError:
                rec.path, rec.opaque, rec.checked = [""], 0, False
    space = Solver(rec).space(model)
    if not space.groups:
        reasons = "; ".join(sorted({f"'{g.name}': {g.frozen_because}" for g in space.frozen})[:3]) or "no layer makes channels"
        raise ValueError(f"{type(model).__name__} has no group of channels that can be pruned ({reasons})")
    return space


def as_call(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Example inputs as arguments and keyword arguments."""
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    return (tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,)), {}


def run(rec: Recorder, model: nn.Module, args: Any, kwargs: Any, example: Any) -> None:
    """One forward pass; freezes what leaves the network."""
    args, kwargs = detached(args), detached(kwargs)
    with torch.no_grad(), hooks(rec), custom_functions(rec), Operators(rec), Functions(rec):
        try:
            output = model(*args, **kwargs)
        except Exception as error:
            shapes = ", ".join(str(tuple(t.shape)) for t in tensors_in(example)) or "no tensor"
            raise ValueError(
                f"example inputs of shape {shapes} do not fit {type(model).__name__} (in {rec.where}): "
                f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            ) from error
    rec.freeze_all(output, "output of the network")


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
            return func(*args, **kwargs)
        if func in (torch.Tensor.size, torch.Tensor.shape.__get__):
            return sizes(rec, func(*args[:1]), args[0], *args[1:2], *kwargs.values())
        if (rule := FUNCTIONS.get(func)) is not None:
            return rule(rec, func, args, kwargs)
        if (check := movement.CHECKS.get(func)) is not None:
            check(rec, func, args, kwargs)
        with rec.inside(checked=check is not None or func in movement.SAFE):
            out = func(*args, **kwargs)
        if check is None:
            counted(rec, func, args, kwargs, out)
        return out


def sizes(rec: Recorder, shape: torch.Size, tensor: Tensor, dim: int | None = None) -> Any:
    """The shape of a tensor, with counts in place of the sizes of channel axes."""
    if getattr(tensor, COMPANION, None) is None:
        return shape if dim is None else shape[dim]
    counts = list(shape)
    for d in rec.varying(tensor):
        counts[d] = ChannelCount.of(movement.line_of(rec.ids(tensor), d), rec.freeze)
    return torch.Size(counts) if dim is None else counts[dim]


def counted(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """A number of channels is passed to a function: a new tensor of that size shrinks with them, all else freezes them."""
    flat = [a for v in (*args, *kwargs.values()) for a in (v if isinstance(v, (tuple, list)) else (v,))]
    counts = [a for a in flat if isinstance(a, ChannelCount)]
    if not counts:
        return
    if func in CREATE and isinstance(out, Tensor) and len(counts) == 1 and counts[0].factor == 1:
        dims = [a for a in flat if isinstance(a, int) and not isinstance(a, bool)]
        axis = next(i for i, a in enumerate(dims) if isinstance(a, ChannelCount))
        if axis < out.dim():
            rec.set(out, along(counts[0].ids, axis, out.shape))
            return
    for count in counts:
        rec.freeze(count.ids, f"their number enters {resolve_name(func) or func} in {rec.where}")


class Operators(TorchDispatchMode):
    """Sees every ATen operator, and applies its rule to the companions."""

    def __init__(self, rec: Recorder) -> None:
        super().__init__()
        self.rec = rec

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rec, kwargs = self.rec, kwargs or {}
        out = func(*args, **kwargs)
        if rec.opaque:
            if rec.fixed:
                fixed_cost(rec, func, args, kwargs, out)
            return out
        rule = OPERATORS.get(func.overloadpacket) or (arithmetic.pointwise if torch.Tag.pointwise in func.tags else None)
        touched = any(getattr(t, COMPANION, None) is not None or id(t) in rec.names for t in tensors_in((args, kwargs)))
        if rule is not None and (touched or rule is arithmetic.product):
            rule(rec, func, args, kwargs, out)
        elif rule is None:
            if touched:
                rec.freeze_all((args, kwargs), f"unknown operation '{func.overloadpacket}' in {rec.where}")
            fixed_cost(rec, func, args, kwargs, out)
        return out


def fixed_cost(rec: Recorder, func: Any, args: Any, kwargs: Any, out: Any) -> None:
    """Multiply-adds of an operation whose operands cannot shrink."""
    if (formula := flop_registry.get(func.overloadpacket)) is not None:
        macs = formula(*args, **kwargs, out_val=out) / 2
        rec.multiplies("fixed", kernel=1, pixels=macs / rec.batch, reads=1, makes=1)


@contextmanager
def hooks(rec: Recorder) -> Iterator[None]:
    """Follow which module runs; treat opaque and self-declaring modules as one layer."""
    names = {id(module): name for name, module in rec.modules.items()}

    def before(module: nn.Module, args: Any) -> None:
        if (name := names.get(id(module))) is None:
            return
        rec.path.append(name)
        if special(module):
            rec.opaque += 1
            rec.fixed += not isinstance(module, Shrinkable)

    def after(module: nn.Module, args: Any, output: Any) -> None:
        if (name := names.get(id(module))) is None:
            return
        if special(module):
            rec.opaque -= 1
            rec.fixed -= not isinstance(module, Shrinkable)
            if not rec.opaque:
                rec.reached.update(f"{name}.{p}" for p, _ in module.named_parameters())
                if isinstance(module, Shrinkable):
                    rec.register(name, 1, rec.read(args[0], 1), "declared")
                    made = rec.axes.get((name, 0), (None, None))[1]
                    made = rec.register(name, 0, rec.channels.allocate(module.out_channels), "declared") if made is None else made
                    rec.set(output, along(made, 1, output.shape))
                else:
                    rec.freeze_all(args, f"{special(module)} ({rec.where})")
        rec.path.pop()

    with ExitStack() as stack:
        for handle in (register_module_forward_pre_hook(before), register_module_forward_hook(after)):
            stack.callback(handle.remove)
        yield


def special(module: nn.Module) -> str:
    """Why a module is not traced inside; empty for ordinary ones."""
    if isinstance(module, Shrinkable):
        return "it declares how it shrinks"
    return next((why for kind, why in attention.OPAQUE_MODULES.items() if isinstance(module, kind)), "")


@contextmanager
def custom_functions(rec: Recorder) -> Iterator[None]:
    """A custom autograd function may do anything: what enters it is frozen."""
    original = torch.autograd.Function.apply

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if not rec.opaque:
            rec.freeze_all(args, f"unknown custom autograd function '{cls.__name__}' in {rec.where}")
        with rec.inside(opaque=True):
            return original.__func__(cls, *args, **kwargs)  # type: ignore[attr-defined]

    torch.autograd.Function.apply = classmethod(apply)  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        torch.autograd.Function.apply = original  # type: ignore[method-assign]


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Leave modes, buffers and the random state as they were."""
    modes = {m: m.training for m in model.modules()}
    buffers = [(b, b.detach().clone()) for b in model.buffers()]
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
