"""Does a network run without a branch? Asked where its own code does something with what is not there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from search_spaces.branch import Branch
from search_spaces.space import SearchSpace
from search_spaces.surgery import prune


def fails_without(model: nn.Module, args: Any, kwargs: Any, space: SearchSpace, branch: Branch) -> str:
    """What the code of a network says without a branch, at random widths of all that stays; empty if it runs.

    Args:
        model: The dense network.
        args: What it is called with.
        kwargs: By keyword.
        space: Its groups.
        branch: What is gone.
    """
    rng = np.random.default_rng(0)
    gone = set(branch.groups)
    groups = tuple(replace(g, floor=0) if n in gone else g for n, g in enumerate(space.groups))
    kept = [np.arange(0 if n in gone else rng.integers(1, g.size + 1)) for n, g in enumerate(groups)]
    try:
        network = prune(model, replace(space, groups=groups, branches=(branch,)), kept).eval()
        args, kwargs = tree_map_only(torch.Tensor, torch.clone, (args, kwargs))
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            network(*args, **kwargs)
    except Exception as error:  # whatever the code of the network raises
        lines = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__}: {lines[0]}"
    return ""
