"""How far the answers of two networks are apart: what distillation minimises."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from autoprune.tasks.trees import leaves

TEMPERATURE = 4.0  # Hinton et al. 2015


def soft_distance(outputs: Tensor, teacher: Tensor, temperature: float, dim: int = 1) -> Tensor:
    """`T^2 * KL(teacher / T || outputs / T)` over an axis of class scores, the mean over all else."""
    one = functional.log_softmax(outputs.float() / temperature, dim=dim)
    other = functional.log_softmax(teacher.float() / temperature, dim=dim)
    each = functional.kl_div(one, other, reduction="none", log_target=True).sum(dim)
    return temperature**2 * each.mean()


def mean_squares(outputs: Any, teacher: Any) -> Tensor:
    """Mean squared difference of all tensors of equal shapes.

    Raises:
        ValueError: If no two have one.
    """
    pairs = zip(leaves(outputs), leaves(teacher), strict=False)
    found = [(a.float() - b.float()).square().mean() for a, b in pairs if a.shape == b.shape and a.is_floating_point()]
    if not found:
        raise ValueError("distillation: the outputs of the two networks have no tensors of equal shapes to compare; "
                         "give the task a distance, or leave distill at 0")  # fmt: skip
    return torch.stack(found).mean()
