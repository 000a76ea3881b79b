"""The tasks that `--data` names by a kind and a place: "segmentation:DIR"."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from autoprune.tasks.task import Task

KINDS: dict[str, Callable[..., Task]] = {}


def built_in(spec: str, args: Mapping[str, Any]) -> Task | None:
    """The task that a specification names; None: images to be classified.

    Args:
        spec: "kind:place".
        args: Of its loading, as `--data-args` gives them.

    Raises:
        ValueError: If its data are unusable, or an argument is unknown.
    """
    kind, colon, place = spec.partition(":")
    if kind not in KINDS or not colon:
        return None
    return KINDS[kind](place, **args)
