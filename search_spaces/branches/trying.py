"""Does a network run without a branch, or several? Asked where its own code does something with what is not there."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from search_spaces.branches.branch import Branch
from search_spaces.space import SearchSpace
from search_spaces.surgery import prune


class WithoutBranches:
    """Runs a network without branches, at random widths of all that stays.

    Args:
        model: The dense network.
        args: What it is called with.
        kwargs: By keyword.
    """

    def __init__(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        self._model, self._args, self._kwargs = model, args, kwargs
        self._failed: dict[Hashable, tuple[str, str]] = {}  # kind -> the module that failed, what it said

    def alone(self, space: SearchSpace, branch: Branch, module: str) -> str:
        """What is said without one branch, whose code is that of a module.

        Where a module of the same kind has failed without the same part of it, this one is not run: a network of many
        such blocks would be run once for each.

        Args:
            space: Groups of the network.
            branch: What is gone.
            module: Its name; empty: the network itself.
        """
        inside = sorted(space.groups[g].name.removeprefix(f"{module}.") for g in branch.groups)
        kind = (_kind(self._model.get_submodule(module)), *inside)
        if kind not in self._failed:
            said = self(space, [branch])
            if not said:
                return ""
            self._failed[kind] = module, said
        where, said = self._failed[kind]
        return said if where == module else f"seen in '{where}', which is alike: {said}"

    def __call__(self, space: SearchSpace, branches: Sequence[Branch]) -> str:
        """What the code of the network says without some branches; empty if it runs."""
        rng = np.random.default_rng(0)
        gone = {g for branch in branches for g in branch.groups}
        groups = tuple(replace(g, floor=0) if n in gone else g for n, g in enumerate(space.groups))
        kept = [np.arange(0 if n in gone else rng.integers(1, g.size + 1)) for n, g in enumerate(groups)]
        try:
            network = prune(self._model, replace(space, groups=groups, branches=tuple(branches)), kept).eval()
            args, kwargs = tree_map_only(torch.Tensor, torch.clone, (self._args, self._kwargs))
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                network(*args, **kwargs)
        except Exception as error:  # whatever the code of the network raises
            lines = str(error).strip().splitlines() or [""]
            return f"{type(error).__name__}: {lines[0]}"
        return ""


def _kind(module: nn.Module) -> Hashable:
    """Equal for modules that run the same code as far as can be seen: types of all parts, and what may steer them.

    Numbers from 4 on are taken for sizes, in which blocks of one kind differ; smaller ones may be switches. Those of
    torch's own layers (strides) steer no code that minds.
    """
    return tuple((name, type(part), _switches(part)) for name, part in module.named_modules())


def _switches(part: nn.Module) -> Hashable:
    own = {} if type(part).__module__.startswith("torch.nn") else vars(part)
    return tuple(sorted((key, repr(_steers(value))) for key, value in own.items()))


def _steers(value: Any) -> Any:
    """What may decide about the course of code, of the value of an attribute."""
    if isinstance(value, (tuple, list)):
        return tuple(map(_steers, value))
    if isinstance(value, (bool, str, type(None))) or (isinstance(value, int) and abs(value) < 4):
        return value
    return getattr(value, "__qualname__", type(value).__qualname__)
