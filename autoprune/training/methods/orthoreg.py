"""Orthonormality regularisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from autoprune.training.methods.given import GivenUnits
from autoprune.training.methods.method import Plan, Pruning, Step


class OrthoReg(GivenUnits):
    """OrthoReg: filters are made orthonormal before the cut, so that their scores add up (Lubana et al. 2020).

    Loss: strength * sum over layers of omega ||W W' - I||, the sum of absolute values, W' W where there are more rows
    than columns; omega is proportional to the square root of the smaller side and sums to 1
    (https://arxiv.org/abs/2009.05014). Every layer that makes a prunable group is a W, where
    the paper takes all convolutions; the paper's weight decay of 0 meanwhile is a setting of the training.

    Args:
        strength: Of the loss (published: 1e-2 for ResNets and VGG, 1e-3 for MobileNets).
    """

    name: ClassVar[str] = "orthoreg"
    strengths: ClassVar[tuple[str, ...]] = ("strength",)
    NOTHING: ClassVar[Mapping[str, float]] = {"strength": 0.0}

    def __init__(self, pruning: Pruning | None = None, *, strength: float = 1e-2) -> None:
        super().__init__(pruning)
        self.strength = strength

    def begin(self, net: nn.Module, plan: Plan) -> None:
        """See `Method`."""
        super().begin(net, plan)
        self.layers = [part for units in self.prunable for part in units.of("filter")]
        sides = torch.tensor([float(min(p.rows.shape)) for p in self.layers]).sqrt()
        self.shares = (sides / sides.sum()).tolist()  # omega

    def penalty(self, net: nn.Module, step: Step) -> Tensor | None:
        """See the class."""
        if not (self.strength and self.layers):
            return None
        found = [s * _distance(p.rows) for s, p in zip(self.shares, self.layers, strict=True)]
        return self.strength * torch.stack(found).sum()


def _distance(rows: Tensor) -> Tensor:
    """Of the Gram matrix of the shorter side from the identity, of rows [n, m]."""
    gram = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
    return (gram - torch.eye(len(gram), device=rows.device)).abs().sum()
