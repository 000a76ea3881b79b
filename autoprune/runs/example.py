"""The example input of a run, and whether the network could be run on it here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from autoprune.config import RunConfig
from autoprune.data.memory import memory
from autoprune.tasks import Task, part_of
from autoprune.tasks.trees import arguments
from search_spaces import copy_of
from search_spaces.tracing import check_model

SMALL = 2**20  # elements: what is no larger is not worth a thought


def example_of(config: RunConfig, task: Task, model: nn.Module) -> Any:
    """The example input that the settings describe: zeros of --input, or one sample of the task.

    Raises:
        ValueError: If --input is not a shape, or one that the network cannot be run on in the memory of this machine.
    """
    if not config.input:
        return _sample_of(task, model)
    sizes = config.input.lower().split("x")
    if not all(size.isascii() and size.isdecimal() and 0 < int(size[:20]) for size in sizes):
        raise ValueError(f"input '{config.input}': expected a shape such as 1x3x224x224")
    shape = [int(size[:20]) for size in sizes]
    given = memory()
    if math.prod(shape) > SMALL and given is not None and (needed := _bytes_of(model, shape)) > given:
        raise ValueError(
            f"input '{config.input}': to run the network on it takes about {needed / 1e9:,.0f} GB of memory, and this "
            f"machine gives {given / 1e9:.0f} GB; give a smaller one"
        )
    return torch.zeros(shape)


def _sample_of(task: Task, model: nn.Module) -> Any:
    """One sample as the network is called with it, where the user does not say what it is traced with."""
    if task.has_own_example or not task.calls_otherwise:
        found = task.example()
        if not isinstance(found, Mapping):
            return found
        args, kwargs = arguments(model, found)
        return kwargs or args
    given: list[Any] = []
    batch = part_of(task.draw("calibration", 1, 0).whole(1), 0, 1)
    handle = model.register_forward_pre_hook(lambda _, args, kwargs: given.append((args, kwargs)), with_kwargs=True)
    try:
        with torch.no_grad(), suppress(Exception):  # what fails is said where it is tried
            task.call(model, batch)
    finally:
        handle.remove()
    if len(given) != 1 or all(given[0]):  # of several calls, or arguments of both kinds, none is the example
        return task.example()
    args, kwargs = given[0]
    return kwargs or args


def _bytes_of(model: nn.Module, shape: list[int]) -> int:
    """About how much memory one run takes: of the largest operation, what it makes and as much for what it reads."""
    largest = 4 * math.prod(shape)
    if largest < 2**62:  # else no tensor can be so large
        check_model(model)
        mode = _Largest()
        with suppress(Exception):  # code that does not run without numbers; or the shape is wrong, as tracing will say
            weightless = copy_of(model).to("meta").eval()
            with mode, torch.no_grad():
                weightless(torch.empty(shape, device="meta"))
        largest = max(largest, mode.found)
    return 2 * largest


class _Largest(TorchDispatchMode):
    """Remembers the most bytes that one operation made."""

    found = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        tensors = (leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor))
        self.found = max(self.found, sum(tensor.numel() * tensor.element_size() for tensor in tensors))
        return made
