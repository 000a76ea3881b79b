"""What a user gives `Task.of`: loaders that can be read again, and a loss, of each sample if it can be."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune.tasks.trees import main_output, shapes
from objectives.plugins import running


def check_loader(where: str, loader: Any) -> None:
    """Check that it gives batches each time it is iterated.

    Args:
        where: What errors begin with.
        loader: As it was given.

    Raises:
        ValueError: If it does not.
    """
    if not isinstance(loader, Iterable):
        raise ValueError(f"{where}: must give batches each time it is iterated (a DataLoader, a list), got "
                         f"{type(loader).__name__}")  # fmt: skip
    if _is_one_batch(loader):
        raise ValueError(f"{where}: must give batches, got a tuple of tensors, which is one; give a list of such, "
                         "or DataLoader(TensorDataset(inputs, targets), batch_size=64)")  # fmt: skip
    if iter(loader) is loader:
        raise once(where, loader)
    if isinstance(loader, (Tensor, str, bytes, Mapping)):
        raise ValueError(f"{where}: must give batches of (inputs, targets), got {type(loader).__name__}; e.g. a "
                         "DataLoader of a TensorDataset")  # fmt: skip


def once(where: str, loader: Any) -> ValueError:
    """The error of what is its own iterator: even if that begins anew, a second reader would disturb the first."""
    return ValueError(f"{where}: can be iterated once only ({type(loader).__name__}), or by one reader at a time, but "
                      "each epoch reads it anew, and so do others meanwhile; give a list, a DataLoader or an object "
                      "whose __iter__ returns a new iterator from the start, as one with `yield` does")  # fmt: skip


def _is_one_batch(loader: Any) -> bool:
    """Whether it is a pair of tensors, which would be taken for two batches."""
    return type(loader) is tuple and len(loader) > 1 and all(isinstance(part, Tensor) and part.dim() for part in loader)


class GivenLoss:
    """A user's function of (outputs, targets): of each sample where it can say it, else what it says.

    Args:
        function: One of PyTorch's is given the answer that counts, any other all of them.
        where: What errors begin with.
    """

    def __init__(self, function: Callable[..., Any], where: str) -> None:
        self._function, self._where = function, where
        self._each = _per_sample(function)
        self._agrees: bool | None = None  # whether the mean over the samples is the loss, as its reduction says

    def __call__(self, outputs: Any, targets: Any, count: int, said: str = "") -> Tensor:
        """Of `count` samples: [N], or one number.

        Args:
            outputs: What the network answers.
            targets: What it should answer.
            count: How many samples.
            said: What errors say of the targets; default their shapes.

        Raises:
            ValueError: If it is no tensor, or of another shape.
        """
        answers = main_output(outputs) if _is_torchs(self._function) else outputs
        with running(self._where, f"on outputs ({shapes(answers)}) and targets ({said or shapes(targets)})"):
            if _is_elementwise(self._function) and getattr(targets, "shape", answers.shape) != answers.shape:
                raise ValueError("they would be broadcast to pairs that do not belong together; give targets the shape "
                                 "of the outputs")  # fmt: skip
            if self._each is not None and self._agrees is not False:
                each: Tensor = self._each(answers, targets)
                if self._agrees is None:
                    self._agrees = _means(each, self._function(answers, targets), count)
                if self._agrees:
                    return each.flatten(1).mean(1) if each.dim() > 1 else each
            found = self._function(answers, targets)
        return checked_loss(self._where, found, count)


def check_gradient(where: str, loss: Tensor) -> None:
    """Check that a loss can be followed backwards.

    Raises:
        ValueError: If not.
    """
    if not loss.requires_grad:
        raise ValueError(f"{where}: has no gradient; compute it from the network's outputs with torch, without "
                         ".item(), .detach() or numpy")  # fmt: skip


def checked_loss(where: str, found: Any, count: int) -> Tensor:
    """A loss as one number, or one for each sample [N].

    Raises:
        ValueError: If it is neither.
    """
    if not isinstance(found, Tensor):
        raise ValueError(f"{where}: must be a tensor, got {type(found).__name__} {str(found)[:40]!r}; compute it with "
                         "torch, without .item() or numpy")  # fmt: skip
    if found.is_complex():
        raise ValueError(f"{where}: must be a real number, got {found.dtype}; take its absolute value")
    if found.numel() == 1 and found.shape != (count,):
        return found.reshape(())
    if found.dim() == 0 or len(found) != count:
        raise ValueError(f"{where}: must be one number, or one for each of {count} samples, got shape "
                         f"{list(found.shape)}; take the mean")  # fmt: skip
    return found.flatten(1).mean(1) if found.dim() > 1 else found


def _is_torchs(loss: Any) -> bool:
    """Whether it is one of PyTorch's own, which take tensors only."""
    function = loss.func if isinstance(loss, partial) else loss
    home = getattr(function, "__module__", "") or type(function).__module__
    return f"{home}.".startswith(("torch.nn.", "torch._C"))


def _is_elementwise(loss: Any) -> bool:
    """Whether it is one of PyTorch's that compare number by number, and only warn where shapes differ."""
    function = loss.func if isinstance(loss, partial) else loss
    kinds = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss)
    return type(function) in kinds or function in (
        functional.mse_loss, functional.l1_loss, functional.smooth_l1_loss, functional.huber_loss
    )  # fmt: skip


def is_cross_entropy(loss: Any) -> bool:
    """Whether it is PyTorch's, which takes probabilities too, without weights, which it then sums up otherwise."""
    if isinstance(loss, nn.CrossEntropyLoss):
        return loss.weight is None
    function, told = (loss.func, loss.keywords) if isinstance(loss, partial) else (loss, {})
    return function is functional.cross_entropy and told.get("weight") is None


def _per_sample(loss: Any) -> Any:
    """A loss of PyTorch's that says it for each sample; None where it cannot."""
    if isinstance(loss, nn.Module) and getattr(loss, "reduction", "") == "mean":
        found: Any = copy.deepcopy(loss)
        found.reduction = "none"
        return found
    try:
        reduction = inspect.signature(loss).parameters.get("reduction")
    except (TypeError, ValueError):
        return None
    return partial(loss, reduction="none") if reduction is not None and reduction.default == "mean" else None


def _means(each: Any, whole: Any, count: int) -> bool:
    """Whether the whole loss is the plain mean of that of each sample: not where weights or left-out targets count."""
    if not isinstance(each, Tensor) or not isinstance(whole, Tensor) or each.dim() == 0 or len(each) != count:
        return False
    return torch.allclose(each.detach().float().mean(), whole.detach().float(), rtol=1e-3, atol=1e-6)
