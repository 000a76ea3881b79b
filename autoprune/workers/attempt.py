"""One evaluation that may go wrong, the same in every kind of worker."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from typing import Any

from autoprune.controller import Job
from autoprune.errors import CandidateFailed, DeviceBroken
from autoprune.failures import device_broken
from autoprune.ledger import plain

Evaluate = Callable[[Job], Mapping[str, Any]]


def attempt(evaluate: Evaluate, job: Job) -> dict[str, Any] | str:
    """The metrics, as plain numbers, or why there are none.

    Raises:
        DeviceBroken: If nothing else can be evaluated in this process: it must be replaced by a new one.
    """
    try:
        metrics: dict[str, Any] = plain(dict(evaluate(job)))
    except CandidateFailed as error:
        return str(error) or "candidate failed"
    except (Exception, SystemExit) as error:  # out of memory, too: whatever goes wrong, only this candidate fails
        reason = describe(error)
        error.__traceback__ = None  # frees what the evaluation held: the next candidate needs the memory
        if device_broken(error):
            raise DeviceBroken(f"its device is broken: {reason}") from error
        return reason
    return metrics


def describe(error: BaseException) -> str:
    """One line: the kind of error, its message and where it was raised."""
    text = (str(error).strip().splitlines() or [""])[0][:500]
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text}{place}"
