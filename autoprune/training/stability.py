"""Whether a training bears the strength of its method: where it would diverge, that is said before the first step.

Letters: `w` a weight, `v` its momentum, lambda what a method pushes it with: its gradient is lambda * w.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.training.methods import Method, Plan, Step
from autoprune.training.methods.method import follow
from autoprune.training.methods.sooner import Sooner
from autoprune.training.optimisers import optimizer_of
from autoprune.training.schedules import in_cycles
from search_spaces import copy_of

GROWN = 1e12  # times: greg2 makes kept weights grow on purpose, e^11 times by default at a constant rate of 0.1
HELD = 1e-3  # of a weight: the gradients of the loss, which are left out here, do not let it vanish
REHEARSED = 20  # steps: what is unstable grows in each of them
OVERSHOT = 10.0  # times: penalties shrink weights, or double them; only a step that overshoots makes them so large


def check_strength(net: nn.Module, method: Method, plan: Plan) -> None:
    """Refuse settings of a method that make its training diverge; nothing is changed, and nothing drawn.

    What a push does to a weight is computed for every step, what a penalty does to all of them is tried on a copy in a
    few steps without samples. With clipped gradients every step is bounded, and nothing is refused.

    Args:
        net: The network, before its first step.
        method: Has begun on it.
        plan: The training.

    Raises:
        ValueError: Naming the setting, the learning rate, and a value that is safe.
    """
    method = method.method if isinstance(method, Sooner) else method
    rate = plan.settings.lr
    if not method.strengths or plan.settings.clip or not _diverges(net, method, plan):
        return
    for name in method.strengths:
        value = getattr(method, name)
        least = method.ranges.get(name, (0, 0))[0]
        if value and (safe := _safe(name, value, least, partial(_diverges, net, method, plan))):
            raise ValueError(f"method '{method.name}': with its {name} of {value:g} the training would diverge at the "
                             f"learning rate of {rate:g}; give a {name} of at most {safe:g}, or lower the learning "
                             "rate")  # fmt: skip
    raise ValueError(f"method '{method.name}': with its own settings the training would diverge at the learning rate "
                     f"of {rate:g}; lower the learning rate")  # fmt: skip


def _safe(name: str, value: float, least: float, diverges: Callable[..., bool]) -> float:
    """A quarter of the largest value with which nothing diverges, as the loss adds its own; 0: there is none."""
    low, high = max(least, 1e-12 * min(value, 1.0)), value
    if diverges(**{name: low}):
        return 0.0
    for _ in range(12):  # to less than a hundredth
        middle = (low * high) ** 0.5
        low, high = (low, middle) if diverges(**{name: middle}) else (middle, high)
    return float(f"{low / 4:.2g}")


def _diverges(net: nn.Module, method: Method, plan: Plan, **changed: float) -> bool:
    """Whether it does with these settings instead of its own."""
    factor = in_cycles(plan.settings, plan.steps, plan.per_epoch, method.cycles())
    net = copy_of(net)
    method = type(method)(method.pruning, **{**method.settings(), **changed})
    method.begin(net, plan)
    optimizer = optimizer_of(net, replace(plan.settings, weight_decay=0.0))  # which is no doing of the method
    rates = [plan.settings.lr * factor(step, plan.steps) for step in range(plan.steps)]
    decay = plan.settings.weight_decay  # holds back weights that a method makes grow
    pushes = zip(*([p + decay for p in method.push(step)] for step in range(plan.steps)), strict=True)
    told = {name: optimizer.param_groups[0].get(name) for name in ("momentum", "nesterov", "dampening")}
    # The steps of other optimisers are bounded, or their recurrence is another.
    if type(optimizer) is torch.optim.SGD and any(grows(p, rates, **told) for p in pushes):
        return True
    only_pushes = type(method).push is not Method.push and type(method).penalty is Method.penalty
    return not only_pushes and _overshoots(net, method, optimizer, rates)


def grows(
    push: Iterable[float], rates: Iterable[float], momentum: float, nesterov: bool = False, dampening: float = 0.0
) -> bool:
    """Whether a weight becomes 1e12 times as large under a push alone, by the steps of SGD.

    Args:
        push: Lambda in each step.
        rates: The learning rate in each step.
        momentum: Of SGD, as are the others.
        nesterov: See there.
        dampening: See there.
    """
    w, v = 1.0, 0.0
    for strength, rate in zip(push, rates, strict=True):
        gradient = strength * w
        v = momentum * v + (1 - dampening) * gradient
        w -= rate * (gradient + momentum * v if nesterov else v)
        w = HELD if abs(w) < HELD else w
        if not abs(w) < GROWN:
            return True
    return False


@torch.enable_grad()
def _overshoots(net: nn.Module, method: Method, optimizer: Any, rates: list[float]) -> bool:
    """Whether the largest weight becomes ten times as large by the method alone, in a few steps of the schedule.

    They are spread over the training: a strength that grows meets weights that it has made smaller.
    """
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    before = _largest(trained)
    for now in sorted({-(-number * len(rates) // REHEARSED) for number in range(1, REHEARSED + 1)}):
        step = Step(now - 1, ())
        for group in optimizer.param_groups:
            group["lr"] = rates[step.number]
        for p in trained:
            p.grad = torch.zeros_like(p)
        if (penalty := method.penalty(net, step)) is not None:
            follow(penalty)
        method.after_backward(net, step)
        optimizer.step()
        if not _largest(trained) <= OVERSHOT * before:  # or is no number
            return True
        if now < len(rates):
            method.after_step(net, step)
    return False


def _largest(tensors: Iterable[Tensor]) -> float:
    return float(torch.stack([t.detach().abs().max().float().cpu() for t in tensors if t.numel()]).max())
