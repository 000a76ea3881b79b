"""Networks that compute their own loss when they are given the targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from autoprune.randomness import seeded
from autoprune.tasks.trees import TARGETS, arguments, called, inputs_of, no_targets, signature_of, targets_of


def own_loss(model: nn.Module, batch: Any, where: str) -> tuple[Any, Tensor]:
    """A network's answers and the loss that it says itself.

    A network of keyword arguments is given all of the batch and says "loss" (Hugging Face's). Any other is given inputs
    and targets, as if in training, and says a dictionary of losses, which are added (torchvision's detectors); its
    answers come from a second pass, unless it is being trained.

    Args:
        model: In the mode that is wanted.
        batch: With its targets.
        where: What errors begin with.

    Raises:
        ValueError: If it says none.
    """
    if isinstance(batch, Mapping):
        args, kwargs = arguments(model, named_targets(model, batch))
        outputs = model(*args, **kwargs)
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
        if isinstance(loss, Tensor):
            return outputs, loss
    else:
        inputs, targets = inputs_of(batch), targets_of(batch)
        given = (*(inputs if isinstance(inputs, tuple) else (inputs,)), targets)
        with as_in_training(model):
            losses = model(*given) if _takes(model, given) else None
        if isinstance(losses, Mapping) and losses and all(isinstance(v, Tensor) for v in losses.values()):
            loss = torch.stack([v.float().sum() for v in losses.values()]).sum()
            return None if model.training or torch.is_grad_enabled() else called(model, inputs), loss
    said = f" ({instead})" if (instead := no_targets(batch)) else ""
    raise ValueError(f"{where}: the network says none when it is given the targets{said}, too; give the task a loss of "
                     "(outputs, targets)")  # fmt: skip


def named_targets(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch with its targets under the name that the network has for them: "label" for "labels", and so on."""
    named, mine = dict(batch), next((key for key in TARGETS if key in batch), "")
    with suppress(ValueError, TypeError):
        taken = signature_of(model).parameters
        if mine and mine not in taken and (name := next((key for key in TARGETS if key in taken), "")):
            named[name] = named.pop(mine)
    return named


def _takes(model: nn.Module, given: tuple[Any, ...]) -> bool:
    """Whether it can be called with so many arguments."""
    try:
        signature_of(model).bind(*given)
    except TypeError:
        return False
    except ValueError:  # no signature to be had: see what it says
        pass
    return True


@contextmanager
def as_in_training(model: nn.Module) -> Iterator[None]:
    """In the block the network takes itself for one in training; batch-norm and dropout do not, if it is not.

    It draws the same in every block, so that the losses of candidates compare.
    """
    if model.training:
        yield
        return
    changed = [m for m in model.modules() if not isinstance(m, (_BatchNorm, _DropoutNd))]
    before = [m.training for m in changed]
    try:
        for module in changed:
            module.training = True
        with seeded(0, {p.device for p in model.parameters()}):
            yield
    finally:
        for module, mode in zip(changed, before, strict=True):
            module.training = mode
