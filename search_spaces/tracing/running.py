"""Which module is running: those that are not traced inside are one layer; custom autograd functions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._functorch import apis, eager_transforms
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.checkpoint import CheckpointFunction

from search_spaces.adapters import Adapter, Call, adapted
from search_spaces.companions import along
from search_spaces.contents import is_inexact, tensors_in
from search_spaces.recorder import Recorder
from search_spaces.rules.attention import OPAQUE_MODULES
from search_spaces.shrinkable import Shrinkable, is_shrinkable


@contextmanager
def hooks(rec: Recorder) -> Iterator[None]:
    """Follow which module runs; treat opaque, self-declaring and adapted modules as one layer."""
    names = {id(module): name for name, module in rec.modules.items()}
    adapters = {name: adapter for name, adapter in adapted(rec.modules[""]).items() if name in rec.modules}
    reasons = {name: special(module, adapters.get(name)) for name, module in rec.modules.items()}
    given: list[tuple[Any, Any]] = []  # what the adapted modules that are running were called with

    def before(module: nn.Module, args: Any) -> None:
        if (name := names.get(id(module))) is None:
            return
        rec.path.append(name)
        rec.graph.enter(name)
        if why := reasons[name]:
            rec.opaque += 1
            if not is_shrinkable(module) and name not in adapters:
                rec.closed.append(f"{why} ({rec.where})")

    def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if (name := names.get(id(module))) is None:
            return
        call = Call(name, module, *given.pop(), output) if name in adapters else None
        if reasons[name]:
            # While `opaque`, the recorder's own look at shapes is not taken for the model's.
            if call is not None:
                if rec.opaque == 1:
                    adapters[name].trace(rec, call)
                    rec.graph.add(adapters[name], call.args, call.kwargs, call.output)
            elif not is_shrinkable(module):
                rec.freeze_all((args, kwargs), rec.closed.pop())
                if rec.opaque == 1:
                    rec.graph.add(module, args, kwargs, output)
            elif rec.opaque == 1:
                declared(rec, name, cast(Shrinkable, module), next(tensors_in((args, kwargs))), output)
                rec.graph.add(module, args, kwargs, output)
            rec.opaque -= 1
            rec.reached.update(f"{name}.{p}" for p, _ in module.named_parameters())
        elif call is not None and not rec.opaque:
            with rec.inside(opaque=True):
                adapters[name].trace(rec, call)
        with torch._C.DisableTorchFunction():  # its look at shapes is not the model's
            rec.graph.leave((args, kwargs), output)
        rec.path.pop()

    with ExitStack() as stack:
        for handle in (
            register_module_forward_pre_hook(before),
            register_module_forward_hook(after, with_kwargs=True),
        ):
            stack.callback(handle.remove)
        for name in adapters:
            note = rec.modules[name].register_forward_pre_hook(
                lambda _, args, kwargs: given.append((args, kwargs)), with_kwargs=True
            )
            stack.callback(note.remove)
        yield


def declared(rec: Recorder, name: str, module: Shrinkable, x: Tensor, out: Tensor) -> None:
    """A module that declares how it shrinks is one layer."""
    read = rec.register(name, 1, rec.read(x, 1), "declared")
    known = rec.axes.get((name, 0))
    made = known[1] if known else rec.register(name, 0, rec.channels.allocate(out.shape[1]), "declared")
    rec.set(out, along(made, 1, out.shape))
    rec.calls.declare(name, rec.modules[name], x, out.numel() / out.shape[1] / rec.batch, read, made)


def special(module: nn.Module, adapter: Adapter | None) -> str:
    """Why a module is not traced inside; empty for ordinary ones."""
    if adapter is not None:
        return "an adapter answers for it" if adapter.opaque else ""
    if is_shrinkable(module):
        return "it declares how it shrinks"
    return next((why for kind, why in OPAQUE_MODULES.items() if isinstance(module, kind)), "")


@contextmanager
def custom_functions(rec: Recorder) -> Iterator[None]:
    """A custom autograd function is followed as its code runs, where that is made of operators alone.

    What fills memory of its own (numpy, an extension in C++) or leads to an answer that knows nothing of what entered
    may do anything, and so may a transform of functions: what enters one is frozen.
    """
    original = torch.autograd.Function.__dict__["apply"]

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if cls is CheckpointFunction:
            return args[0](*args[2:])
        if rec.opaque:
            return original.__get__(None, cls)(*args, **kwargs)
        seen, made, nodes = rec.seen, rec.made, len(rec.graph.nodes)
        out = original.__get__(None, cls)(*args, **kwargs)
        new = [t for t in tensors_in(out) if is_inexact(t)]
        known = all(id(t) in rec.views or rec.companion(t) is not None for t in new)
        if rec.seen == seen or rec.made > made or not known:
            rec.freeze_all((args, kwargs, out), f"unknown custom autograd function '{cls.__name__}' in {rec.where}")
            rec.graph.add_missing(cls, args, kwargs, out, nodes)
        return out

    torch.autograd.Function.apply = classmethod(apply)  # type: ignore[assignment, method-assign]
    try:
        with transforms(rec):
            yield
    finally:
        torch.autograd.Function.apply = original


TRANSFORMS = (  # what all of torch.func goes through: where it stands, and what is said of it
    (apis, "vmap_impl", "torch.vmap"),
    (eager_transforms, "grad_and_value_impl", "torch.func.grad"),
    (eager_transforms, "_vjp_with_argnums", "torch.func.vjp"),
    (eager_transforms, "_jvp_with_argnums", "torch.func.jvp"),
)

FUNCTIONALIZED = (
    "_func_increment_nesting", "_wrap_all_tensors_to_functional", "_unwrap_all_tensors_from_functional",
    "_func_decrement_nesting",
)  # fmt: skip


@contextmanager
def transforms(rec: Recorder) -> Iterator[None]:
    """Inside torch.vmap and its like tensors are not what they seem, so what enters there, and runs there, stays."""

    def around(name: str, original: Any) -> Any:
        def transformed(*args: Any, **kwargs: Any) -> Any:
            if rec.opaque:
                return original(*args, **kwargs)
            with sealed(rec, f"{name} in {rec.where} cannot be followed", (args, kwargs), layers=True):
                out = original(*args, **kwargs)
            rec.graph.add(original, args, kwargs, out)
            return out

        return transformed

    with ExitStack() as undo:
        for module, attribute, name in TRANSFORMS:
            original = getattr(module, attribute)
            setattr(module, attribute, around(name, original))
            undo.callback(setattr, module, attribute, original)
        undo.enter_context(functionalized(rec))
        yield


@contextmanager
def functionalized(rec: Recorder) -> Iterator[None]:
    """The same of torch.func.functionalize: its steps are exchanged, as what it made may be there already."""
    begin, wrap, unwrap, end = (getattr(eager_transforms, name) for name in FUNCTIONALIZED)
    running: list[tuple[ExitStack, list[Any]]] = []  # those that are at work, each with what entered it

    def begun(*args: Any) -> Any:
        inside = ExitStack()
        if not rec.opaque:
            why = f"torch.func.functionalize in {rec.where} cannot be followed"
            inside.enter_context(sealed(rec, why, (), layers=True))
        running.append((inside, []))
        return begin(*args)

    def wrapped(values: Any, level: Any) -> Any:
        if len(running) == 1 and rec.closed:
            rec.freeze_all(values, rec.closed[-1])
        running[-1][1].append(values)
        return wrap(values, level)

    def unwrapped(values: Any, **kwargs: Any) -> Any:
        out = unwrap(values, **kwargs)
        if rec.opaque == 1:
            rec.graph.add(unwrap, tuple(running[-1][1]), {}, out)
        return out

    def ended(*args: Any) -> Any:
        try:
            return end(*args)
        finally:
            running.pop()[0].close()  # what it makes of ids is made outside

    for name, step in zip(FUNCTIONALIZED, (begun, wrapped, unwrapped, ended), strict=True):
        setattr(eager_transforms, name, step)
    try:
        yield
    finally:
        for name, step in zip(FUNCTIONALIZED, (begin, wrap, unwrap, end), strict=True):
            setattr(eager_transforms, name, step)


@contextmanager
def sealed(rec: Recorder, why: str, values: Any, *, layers: bool = False) -> Iterator[None]:
    """Something runs of which nothing is known: what enters it stays, and so do the parameters it uses.

    Args:
        rec: The recorder.
        why: Reason given.
        values: What enters it.
        layers: The parameters that it uses are those of layers, which are named among what stays.
    """
    known = len(rec.whole)
    rec.closed.append(why)
    rec.freeze_all(values, why)
    try:
        with rec.inside(opaque=True):
            yield
    finally:
        rec.closed.pop()
        for name, axis in [*islice(reversed(rec.whole), len(rec.whole) - known)] if layers else ():
            if axis == 0 and rec.whole[name, axis] == why and len(rec.shapes[name]) > 1:
                rec.makes(name, 0, rec.shapes[name][0])
