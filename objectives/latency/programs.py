"""A network as a torch.export program that takes any batch: what ONNX files and .pt2 files are made of."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from objectives.latency.backend import rebatched
from search_spaces import select_inputs
from search_spaces.tracing import slow_path


def program(
    model: nn.Module, inputs: Any, batch: int | None = None
) -> tuple[torch.export.ExportedProgram, tuple[Tensor, ...]]:
    """The exported program and what it was exported with: a batch of two at least (one would be taken for a constant).

    Where the model's own code fixes the batch, a static program is better than none.

    Args:
        model: The network.
        inputs: One batch as the network is called with; by name, they become arguments in that order.
        batch: Samples of a static program; None: those of the inputs.

    Raises:
        ValueError: If it is called with other things than tensors.
        Exception: Whatever torch raises that cannot export it.
    """
    model = copy.deepcopy(model).cpu().eval()
    inputs = select_inputs(model, inputs)
    if isinstance(inputs, Mapping):
        model, inputs = _Named(model, tuple(inputs)), tuple(inputs.values())
    arguments = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    if not all(isinstance(a, Tensor) for a in arguments):
        raise ValueError("ONNX and torch.export take models called with tensors only; use load()")
    arguments = tuple(a.cpu() for a in arguments)
    pair = tuple(rebatched(a, max(2, len(a))) for a in arguments)
    free = torch.export.Dim("batch", min=1)
    # torch prints the whole graph before it fails; fused transformer layers are no operators of other programs
    with contextlib.redirect_stderr(io.StringIO()), slow_path():
        try:
            return torch.export.export(model, pair, dynamic_shapes=_as_called(model, [{0: free} for _ in pair])), pair
        except Exception:  # they raise whatever they like
            fixed = rebatched(arguments, batch) if batch else arguments
        try:
            return torch.export.export(model, fixed), fixed
        except Exception:  # its code knows one batch size, and it is not this one
            return torch.export.export(model, pair), pair


def _as_called(model: nn.Module, arguments: Sequence[Any]) -> tuple[Any, ...]:
    """What belongs to each argument, in the order of `forward`'s parameters: all that `*values` takes is one tuple."""
    kinds = [p.kind for p in inspect.signature(model.forward).parameters.values()]
    single = kinds.index(inspect.Parameter.VAR_POSITIONAL) if inspect.Parameter.VAR_POSITIONAL in kinds else len(kinds)
    return (*arguments[:single], tuple(arguments[single:])) if single < len(kinds) else tuple(arguments)


class _Named(nn.Module):
    """A network of keyword arguments as one of positional ones.

    Args:
        model: The network.
        names: Of its arguments, in their order.
    """

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *values: Tensor) -> Any:
        """What it answers."""
        return self.model(**dict(zip(self.names, values, strict=True)))
