"""The optimiser of a training: SGD, AdamW, or any of torch.optim's kind."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from autoprune.settings import TrainingSettings
from objectives.plugins import described, find

OPTIMIZERS: dict[str, Any] = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
NEEDED = ("step", "zero_grad", "state_dict", "load_state_dict", "param_groups")


def optimizer_of(model: nn.Module, settings: TrainingSettings) -> Any:
    """The optimiser of all parameters that require a gradient.

    Raises:
        ValueError: If there is none to train, or the optimiser is unknown, cannot be made, or cannot be gone on with
            after a stop.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise ValueError("training: no parameter of the model requires a gradient; call model.requires_grad_(True)")
    if settings.optimizer not in OPTIMIZERS:
        _check_state(settings)
    if settings.decay_biases or not settings.weight_decay:
        return _made(trainable, settings)
    weights, others = ([p for p in trainable if (p.dim() > 1) is many] for many in (True, False))
    groups: list[dict[str, Any]] = [{"params": weights}, {"params": others, "weight_decay": 0.0}]
    return _made([group for group in groups if group["params"]], settings)


def _made(parameters: Any, settings: TrainingSettings) -> Any:
    name = settings.optimizer
    kind = find("optimizer", name, OPTIMIZERS)
    told: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    if name == "sgd":
        told |= {"momentum": settings.momentum, "nesterov": settings.momentum > 0}
        groups = [p["params"] if isinstance(p, dict) else [p] for p in parameters]
        if all(p.is_cuda for group in groups for p in group) and not settings.optimizer_args:
            told["fused"] = True  # one kernel for all parameters
    elif "weight_decay" not in _accepted(kind):  # one that knows no weight decay
        del told["weight_decay"]
    try:
        found = kind(parameters, **{**told, **settings.optimizer_args})
    except Exception as error:
        raise ValueError(f"optimizer '{name}': cannot be made with {_list(told | settings.optimizer_args)} "
                         f"({described(error)}); see --optimizer-args") from error  # fmt: skip
    if lacking := [part for part in NEEDED if not hasattr(found, part)]:
        raise ValueError(f"optimizer '{name}': must be of torch.optim.Optimizer's kind, but "
                         f"{type(found).__name__} has no {', '.join(lacking)}")  # fmt: skip
    return found


def _check_state(settings: TrainingSettings) -> None:
    """Try an optimiser from outside on a few numbers: its state dict must hold all that it remembers.

    Raises:
        ValueError: If it cannot be stepped, or goes on otherwise from its state dict than without a stop.
    """
    name = f"optimizer '{settings.optimizer}'"

    def begun() -> tuple[list[nn.Parameter], Any]:
        numbers = [nn.Parameter(torch.linspace(-1, 1, 6).reshape(2, 3)), nn.Parameter(torch.ones(3))]
        return numbers, _made(numbers, settings)

    def stepped(numbers: list[nn.Parameter], optimizer: Any, times: Iterable[int]) -> None:
        for time in times:
            for number in numbers:
                number.grad = (number.detach() + time).cos()
            optimizer.step()

    try:
        with torch.enable_grad():
            (whole, one), (parts, other) = begun(), begun()
            stepped(whole, one, range(4))
            stepped(parts, other, range(2))
            state, (_, again) = other.state_dict(), begun()
            resumed = [nn.Parameter(p.detach().clone()) for p in parts]
            again = _made(resumed, settings)
            again.load_state_dict(state)
            stepped(resumed, again, range(2, 4))
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"{name}: cannot be stepped as torch.optim.SGD can, without a closure "
                         f"({described(error)}); give another, or train with --trainer") from error  # fmt: skip
    if not all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True)):
        raise ValueError(f"{name}: remembers more than its state_dict() says, so a training that was stopped would not "
                         "go on as it was; keep its state in self.state, as torch.optim.Optimizer does")  # fmt: skip


def _accepted(kind: Any) -> set[str]:
    """The arguments that it names; all where it takes any."""
    try:
        found = inspect.signature(kind).parameters
    except (TypeError, ValueError):
        return {"weight_decay"}
    return {"weight_decay"} if any(p.kind is p.VAR_KEYWORD for p in found.values()) else set(found)


def _list(told: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in told.items())
