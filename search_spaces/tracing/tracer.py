"""`trace`: what its passes have written down becomes the search space."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from search_spaces.branches.trying import WithoutBranches
from search_spaces.contents import tensors_in
from search_spaces.preserving import preserved
from search_spaces.recorder import Recorder
from search_spaces.space import SearchSpace
from search_spaces.tracing.feeding import traced_inputs
from search_spaces.tracing.passes import as_call, run, run_training, runs
from search_spaces.tracing.readers import counts_seen
from search_spaces.tracing.solving import Solver
from search_spaces.tracing.watching import forget_counts, watched

ONE_AT_A_TIME = threading.Lock()  # what is exchanged while a network is traced, all threads share
tracing = threading.local()  # the network of this thread


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
        rec.calls.price(rec.batch)
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
