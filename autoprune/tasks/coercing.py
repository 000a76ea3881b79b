"""What may be given where a task is wanted."""

from __future__ import annotations

from typing import Any

from autoprune.data import ImageData, ImageStream
from autoprune.tasks.classification import Classification
from autoprune.tasks.task import Task


def as_task(given: Any) -> Task:
    """A task as it is; images are to be classified.

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(given, (ImageData, ImageStream)):
        return Classification(given)
    if not isinstance(given, Task):
        raise ValueError(f"task: expected an autoprune.tasks.Task or an ImageData, got {type(given).__name__}; make "
                         "one of loaders with Task.of(train=..., val=..., loss=...)")  # fmt: skip
    return given
