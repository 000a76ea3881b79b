"""Rescaled initialisation: a factor for each weight of a network, learnt before it trains.

GradInit (Zhu et al. 2021, https://arxiv.org/abs/2102.08098, algorithm 1), by which ToST begins (Jaiswal et al. 2022,
https://arxiv.org/abs/2206.00187; METHODS-TRAINING 8), with the constants of the latter's code: of all its parts it is,
besides label smoothing, the one that leaves the architecture alone. Letters: m factors, g gradients.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.tasks import Task
from search_spaces import Sliced

RATE = 1e-3  # of the factors, by Adam
AHEAD = 0.1  # eta, the step whose loss is minimised
LEAST = 0.01  # of a factor
MOST = 1.0  # gamma, of the norm of the gradients
CLIP = 1.0  # of a factor's gradient
SIGNS = ("derivative for", "double backward", "differentiate twice")  # of torch, that it cannot do it again


def rescale(model: nn.Module, task: Task, batches: Iterable[Any]) -> dict[str, float]:
    """Multiply every weight of a network in train mode by a factor that is learnt, one step for each batch but one.

    Each step minimises the loss on the next batch after a step of gradient descent on this one, L(m w - eta g); where
    |g| > gamma, |g| instead.

    Returns:
        Name of each parameter that is trained -> its factor.

    Raises:
        ValueError: If the loss of this network cannot be differentiated twice.
    """
    weights = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    factors = {name: torch.ones((), device=w.device, requires_grad=True) for name, w in weights.items()}
    optimizer = torch.optim.Adam(factors.values(), lr=RATE)
    for batch, following in pairwise(batches):
        optimizer.zero_grad()
        try:
            _ahead(model, task, batch, following, weights, factors).backward()
        except RuntimeError as error:
            if not any(sign in str(error) for sign in SIGNS):
                raise
            raise ValueError(f"rescale: the gradients of this network cannot be differentiated again "
                             f"({str(error).splitlines()[0]}); leave rescale at 0") from error  # fmt: skip
        nn.utils.clip_grad_value_(factors.values(), CLIP)
        optimizer.step()
        with torch.no_grad():
            for factor in factors.values():
                factor.clamp_(min=LEAST)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in factors:
                parameter.copy_(weights[name] * factors[name])
    return {name: float(factor.detach()) for name, factor in factors.items()}


def _ahead(
    model: nn.Module, task: Task, batch: Any, following: Any, weights: Mapping[str, Tensor], factors: Mapping[str, Any]
) -> Tensor:
    """What a step minimises."""
    scaled = {name: factors[name] * weight for name, weight in weights.items()}
    loss = task.evaluate(Sliced(model, scaled), batch)[1].float().mean()
    values = list(scaled.values())
    slopes = torch.autograd.grad(loss, values, create_graph=True, allow_unused=True)
    found = [torch.zeros_like(v) if g is None else g for v, g in zip(values, slopes, strict=True)]
    norm: Tensor = torch.cat([g.flatten() for g in found]).norm()
    if float(norm.detach()) > MOST:
        return norm
    stepped = {name: value - AHEAD * g for (name, value), g in zip(scaled.items(), found, strict=True)}
    ahead: Tensor = task.evaluate(Sliced(model, stepped), following)[1].float().mean()
    return ahead
