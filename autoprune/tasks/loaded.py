"""The task that `Task.of` makes of loaders and functions."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoprune.tasks.draws import first_of
from autoprune.tasks.scores import score_of
from autoprune.tasks.task import TEMPERATURE, Task, mean_squares, soft_distance
from autoprune.tasks.trees import called, inputs_of, leaves, main_output, num_samples, targets_of
from objectives.plugins import running


class LoadedTask(Task):
    """See `Task.of`."""

    def __init__(
        self,
        train: Any,
        val: Any,
        test: Any,
        *,
        calibration: Any,
        loss: Callable[..., Any] | None,
        metrics: Mapping[str, Any] | None,
        call: Callable[..., Any] | None,
        distance: Callable[..., Any] | None,
        example: Any,
        name: str,
        sample: str,
    ) -> None:
        self.spec, self.sample = name or "Task.of", sample
        given = {"train": train, "val": val, "test": test, "calibration": calibration}
        self.splits = {split: loader for split, loader in given.items() if loader is not None}
        for split, loader in given.items():
            self._check_loader(split, loader)
        for what, function in (("loss", loss), ("call", call), ("distance", distance)):
            if function is not None and not callable(function):
                raise ValueError(f"task '{self.spec}': {what} must be a function, got {function!r:.60}")
        if metrics is not None and not isinstance(metrics, Mapping):
            raise ValueError(f"task '{self.spec}': metrics must be a dictionary of name -> metric, got {metrics!r:.60}")
        self._metrics = dict(metrics or {})
        for key, metric in self._metrics.items():
            score_of(key, metric)
        self._loss, self._call, self._distance, self._example = loss, call, distance, example
        self._each = None if loss is None else _per_sample(loss)
        self.takes_probabilities = _is_cross_entropy(loss)
        self._agrees: bool | None = None  # whether the mean over the samples is the loss, as its reduction says

    def _check_loader(self, split: str, loader: Any) -> None:
        if loader is None and split in ("train", "val"):
            raise ValueError(f"{self.where(split)}: is missing; give a DataLoader or a list of batches")
        if loader is not None and not isinstance(loader, Iterable):
            raise ValueError(f"{self.where(split)}: must give batches each time it is iterated (a DataLoader, a list), "
                             f"got {type(loader).__name__}")  # fmt: skip
        if loader is not None and iter(loader) is loader:
            raise ValueError(f"{self.where(split)}: can be iterated once only ({type(loader).__name__}), but each "
                             "epoch reads it anew; give a list, a DataLoader or an object whose __iter__ begins at the "
                             "start")  # fmt: skip
        if isinstance(loader, (Tensor, str, bytes, Mapping)):
            raise ValueError(f"{self.where(split)}: must give batches of (inputs, targets), got "
                             f"{type(loader).__name__}; e.g. a DataLoader of a TensorDataset")  # fmt: skip

    def batches(self, split: str, epoch: int = 0) -> Iterable[Any]:
        """The user's own loader."""
        loader: Iterable[Any] = self.splits[split]
        for part in (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)):
            if callable(set_epoch := getattr(part, "set_epoch", None)):
                set_epoch(epoch)
        return loader

    def has(self, split: str) -> bool:
        """Whether it was given."""
        return split in self.splits

    def call(self, model: nn.Module, batch: Any) -> Any:
        """As usual, or as the user says."""
        inputs = inputs_of(batch)
        if self._call is not None:
            with running(f"task '{self.spec}': call"):
                return self._call(model, inputs)
        return called(model, inputs)

    def evaluate(self, model: nn.Module, batch: Any) -> tuple[Any, Tensor]:
        """Answers and loss; without a loss of the user's, the network's own."""
        if self._loss is not None:
            return super().evaluate(model, batch)
        from autoprune.tasks.own_loss import own_loss

        return own_loss(model, batch, self.where("loss"))

    def loss(self, outputs: Any, batch: Any) -> Tensor:
        """Of each sample where the function can say it, else what it says."""
        if self._loss is None:
            raise ValueError(f"{self.where('loss')}: is the network's own, and needs its batch")
        answers = main_output(outputs) if _is_torchs(self._loss) else outputs
        targets = targets_of(batch)
        with running(f"task '{self.spec}': loss", f"on outputs and targets of {num_samples(batch)} samples"):
            if self._each is not None and self._agrees is not False:
                each: Tensor = self._each(answers, targets)
                if self._agrees is None:
                    self._agrees = _means(each, self._loss(answers, targets), num_samples(batch))
                if self._agrees:
                    return each.flatten(1).mean(1) if each.dim() > 1 else each
            found = self._loss(answers, targets)
        return self._checked(found, num_samples(batch))

    def _checked(self, found: Any, count: int) -> Tensor:
        if not isinstance(found, Tensor):
            raise ValueError(f"{self.where('loss')}: must be a tensor, got {type(found).__name__} {str(found)[:40]!r}; "
                             "compute it with torch, without .item() or numpy")  # fmt: skip
        if found.numel() == 1:
            return found.reshape(())
        if found.dim() == 0 or len(found) != count:
            raise ValueError(f"{self.where('loss')}: must be one number, or one for each of {count} samples, got shape "
                             f"{list(found.shape)}; take the mean")  # fmt: skip
        return found.flatten(1).mean(1) if found.dim() > 1 else found

    def scores(self) -> Mapping[str, Any]:
        """The user's metrics."""
        return self._metrics

    def distance(self, outputs: Any, teacher: Any, temperature: float = TEMPERATURE) -> Tensor:
        """The user's; else soft class scores where the targets are class numbers, else mean squares."""
        if self._distance is not None:
            with running(f"task '{self.spec}': distance"):
                return self._checked(self._distance(outputs, teacher), 1)
        one, other = main_output(outputs), main_output(teacher)
        same = isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape and one.dim() >= 2
        if same and self._has_classes:
            return soft_distance(one, other, temperature)
        return mean_squares(outputs, teacher)

    @cached_property
    def _has_classes(self) -> bool:
        """Whether targets are class numbers: read once, not at each step, and nobody's generator moves."""
        targets = leaves(targets_of(first_of(self.read("val"), self.where("val"), 0)))
        return bool(targets) and not targets[0].is_floating_point()

    def example(self) -> Any:
        """The user's, else one sample."""
        return super().example() if self._example is None else self._example


def _is_torchs(loss: Any) -> bool:
    """Whether it is one of PyTorch's own, which take tensors only."""
    function = loss.func if isinstance(loss, partial) else loss
    home = getattr(function, "__module__", "") or type(function).__module__
    return f"{home}.".startswith(("torch.nn.", "torch._C"))


def _is_cross_entropy(loss: Any) -> bool:
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
