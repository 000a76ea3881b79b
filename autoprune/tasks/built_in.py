"""The tasks that `--data` names by a kind and a place: "segmentation:DIR"."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from autoprune.tasks.detection_folder import detection_folder
from autoprune.tasks.segmentation_folder import segmentation_folder
from autoprune.tasks.tabular import tabular_file
from autoprune.tasks.task import Task

KINDS: dict[str, Callable[..., Task]] = {
    "segmentation": segmentation_folder,
    "detection": detection_folder,
    "tabular": tabular_file,
}


def built_in(spec: str, args: Mapping[str, Any], memory: float = math.inf) -> Task | None:
    """The task that a specification names; None: images to be classified.

    Args:
        spec: "kind:place".
        args: Of its loading, as `--data-args` gives them.
        memory: Images that take more bytes than this are streamed.

    Raises:
        ValueError: If its data are unusable, or an argument is unknown.
    """
    kind, colon, place = spec.partition(":")
    if kind not in KINDS or not colon:
        return None
    known = [name for name in inspect.signature(KINDS[kind]).parameters if name not in ("place", "memory", "settings")]
    given = {"memory": memory} if "memory" in inspect.signature(KINDS[kind]).parameters else {}
    try:
        return KINDS[kind](place, **given, **args)
    except TypeError as error:
        text = f"unusable --data-args ({error}); known: {', '.join(known) or 'see its class'}"
        raise ValueError(f"data '{spec}': {text}") from error
