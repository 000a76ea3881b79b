"""The forward passes of a trace: in inference, and in training for what only runs there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.contents import copy_of, tensors_in
from search_spaces.inputs import exchanged, positional
from search_spaces.recorder import Recorder
from search_spaces.tracing.dispatch import Functions, Nested, Operators
from search_spaces.tracing.feeding import fed
from search_spaces.tracing.running import custom_functions, hooks


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
    rec.calls.counting = rec.graph.recording = False
    model.train()
    try:
        run(rec, model, args, kwargs)
    except ValueError as error:
        return error
    return None


def runs(model: nn.Module, args: Any, kwargs: Any, *, training: bool = False) -> bool:
    """Does a copy run, in training mode or the mode that it is in, with nobody looking?"""
    with suppress(Exception, SystemExit), torch.no_grad(), torch.random.fork_rng(devices=[]):
        network = copy_of(model)
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
