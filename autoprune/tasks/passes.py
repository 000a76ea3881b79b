"""A network on a batch: who is to blame where the batch does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from autoprune.failures import device_broken, out_of_memory
from autoprune.tasks.trees import shapes
from objectives.plugins import PluginError, described

if TYPE_CHECKING:
    from autoprune.tasks.task import Task

OWN = ("task ", "data ", "metric ", "labels")  # sentences that name their part already


def evaluated(task: Task, model: nn.Module, batch: Any, split: str) -> tuple[Any, Tensor]:
    """Answers and loss, as `Task.evaluate`.

    Args:
        task: What the network is for.
        model: The network.
        batch: On its device.
        split: That the batch is of, for errors.

    Raises:
        ValueError: If the batch does not fit the network or the loss.
    """
    with fitting(task, split, batch):
        return task.evaluate(model, batch)


def answered(task: Task, model: nn.Module, batch: Any, split: str) -> Any:
    """Answers, as `Task.call`; see `evaluated`."""
    with fitting(task, split, batch):
        return task.call(model, batch)


@contextmanager
def fitting(task: Task, split: str, batch: Any, which: str = "a batch") -> Iterator[None]:
    """One sentence about a batch, where the network or the loss, which have taken others, fail on it in the block.

    Args:
        task: Whose batch it is.
        split: Of the task.
        batch: That is tried.
        which: What to call it.

    Raises:
        ValueError: Saying so; a lack of memory and a lost device stay what they are.
    """
    try:
        yield
    except Exception as error:
        if out_of_memory(error) or device_broken(error):
            raise
        where = task.where(split)
        if isinstance(error, PluginError) or str(error).startswith(OWN):
            part = where.rpartition(": ")[2]
            raise type(error)(f"{error}; of {part}, {which} ({shapes(batch)})") from error
        raise ValueError(f"{where}: {which} ({shapes(batch)}) does not fit the network or the loss: "
                         f"{described(error)}") from error  # fmt: skip
