"""The zero-mask law as a check: the pruned network must compute what the masked dense one computes."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from search_spaces.masking import mask
from search_spaces.recorder import tensors_in
from search_spaces.space import Kept, SearchSpace
from search_spaces.surgery import prune
from search_spaces.tracing import as_call, preserved


class VerificationError(ValueError):
    """A space does not describe its network: pruning would change what the kept channels compute."""


def verify(
    model: nn.Module,
    space: SearchSpace,
    example_inputs: Any,
    *,
    seeds: Iterable[int] = (0, 1, 2),
    tolerance: float = 1e-4,
) -> float:
    """Prune random channels of `model` and compare with the dense network in which nothing reads them.

    Batch-norm statistics are randomised first (fresh ones hide errors); `model` itself is left as it is.

    Args:
        model: The dense network.
        space: What `trace` found in it.
        example_inputs: As for `trace`.
        seeds: One random choice of 20 % to 80 % of the channels of every group for each.
        tolerance: Largest accepted difference, relative to the largest output.

    Returns:
        The largest relative difference found.

    Raises:
        VerificationError: Names the group whose removal breaks the network.
    """
    worst = 0.0
    with preserved(model), torch.no_grad():
        model.eval()
        for seed in seeds:
            rng = np.random.default_rng(seed)
            subject = randomised(model, seed)
            kept = random_kept(space, rng)
            worst = max(worst, found := difference(subject, space, kept, example_inputs))
            if math.isnan(found):
                raise VerificationError(
                    f"{type(model).__name__}: answers the example input with NaN or infinity, so that nothing can be "
                    "compared; check the weights, or give another example input"
                )
            if not found <= tolerance:
                raise VerificationError(blame(subject, space, kept, example_inputs, found, tolerance))
    return worst


def random_kept(space: SearchSpace, rng: np.random.Generator) -> Kept:
    """20 % to 80 % of the units of every group, at random."""
    return tuple(
        np.sort(rng.choice(g.size, g.clip(g.size * rng.uniform(0.2, 0.8)), replace=False)) for g in space.groups
    )


def randomised(model: nn.Module, seed: int) -> nn.Module:
    """A copy with random normalisation statistics, scales and shifts."""
    subject = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)

    def draw(like: Tensor, low: float, high: float) -> Tensor:
        return (torch.rand(like.shape, generator=generator) * (high - low) + low).to(like)

    for module in subject.modules():
        if isinstance(getattr(module, "running_mean", None), Tensor):
            ranges = {"running_mean": (-0.3, 0.3), "running_var": (0.5, 1.5), "weight": (0.5, 1.5), "bias": (-0.3, 0.3)}
            for name, (low, high) in ranges.items():
                if isinstance(value := getattr(module, name, None), Tensor):
                    value.copy_(draw(value, low, high))
    return subject


def difference(model: nn.Module, space: SearchSpace, kept: Kept, example_inputs: Any) -> float:
    """Largest difference of pruned and masked outputs, relative to the largest one.

    Returns:
        Infinity if the pruned network fails or answers what is not finite; NaN if the masked one already does.
    """
    args, kwargs = as_call(example_inputs)
    expected = list(tensors_in(mask(model, space, kept)(*args, **kwargs)))
    try:
        found = list(tensors_in(prune(model, space, kept)(*args, **kwargs)))
    except (RuntimeError, ValueError, IndexError, AssertionError, TypeError):
        return float("inf")
    if [t.shape for t in found] != [t.shape for t in expected]:
        return float("inf")
    pairs = [(a.double(), b.double()) for a, b in zip(found, expected, strict=True) if a.is_floating_point()]
    for outputs, verdict in ((1, float("nan")), (0, float("inf"))):
        if not all(pair[outputs].isfinite().all() for pair in pairs):
            return verdict
    return max(
        (float((a - b).abs().max() / b.abs().max().clamp_min(1e-12)) for a, b in pairs if a.numel()), default=0.0
    )


def blame(model: nn.Module, space: SearchSpace, kept: Kept, example_inputs: Any, found: float, tolerance: float) -> str:
    """Try each group alone, and name the first that breaks the network."""
    whole = [np.arange(g.size) for g in space.groups]
    for number, group in enumerate(space.groups):
        alone = tuple(kept[number] if i == number else w for i, w in enumerate(whole))
        if not (one := difference(model, space, alone, example_inputs)) <= tolerance:
            how = (
                "cannot run without its channels"
                if one == float("inf")
                else f"changes by {one:.1e} of its largest output"
            )
            return (
                f"group '{group.name}': the pruned network {how}, so the trace missed something that depends on them; "
                f"freeze it (--freeze {group.name}) and please report the network"
            )
    return (
        f"the pruned network differs by {found:.1e} from the masked one, though no single group does: "
        "please report the network"
    )
