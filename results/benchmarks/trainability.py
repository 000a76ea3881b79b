"""What is said to tell, without training, how well a pruned network will train; the lower the better here.

Shapes: images [N, 3, 32, 32], labels [N]. The networks are in eval mode, their batch-norm re-estimated.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

Measure = Callable[[nn.Module, nn.Module, Tensor, Tensor], float]  # pruned, dense, images, labels
JACOBIANS = 64  # images whose Jacobian is taken


def gradient_flow(pruned: nn.Module, dense: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Minus the squared norm of the loss's gradient (what GraSP keeps: Wang, Zhang, Grosse 2020, eq. 3)."""
    loss = functional.cross_entropy(pruned(images), labels)
    gradients = torch.autograd.grad(loss, [p for p in pruned.parameters() if p.requires_grad])
    return -sum(float(g.double().square().sum()) for g in gradients)


def isometry(pruned: nn.Module, dense: nn.Module, images: Tensor, labels: Tensor) -> float:
    """How far the mean singular value of the Jacobian is from the dense network's, as |log ratio|.

    The measure of trainability of Wang and Fu (2023), "Trainability Preserving Neural Pruning", section 4.
    """
    return abs(math.log(singular_value(pruned, images) / singular_value(dense, images)))


def singular_value(model: nn.Module, images: Tensor) -> float:
    """Mean singular value of the Jacobian of outputs by inputs, over images."""
    inputs = images[:JACOBIANS].clone().requires_grad_()
    outputs = model(inputs)
    rows = [torch.autograd.grad(score.sum(), inputs, retain_graph=True)[0].flatten(1) for score in outputs.unbind(1)]
    return float(torch.linalg.svdvals(torch.stack(rows, 1)).mean())


def smallest_share(pruned: nn.Module, dense: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Minus the share of its channels that the thinnest layer keeps."""
    whole, left = dict(dense.named_parameters()), pruned.named_parameters()
    return -min(weight.shape[0] / whole[name].shape[0] for name, weight in left if weight.dim() > 1)


MEASURES: dict[str, Measure] = {
    "gradient flow": gradient_flow, "isometry": isometry, "smallest share": smallest_share,
}  # fmt: skip
