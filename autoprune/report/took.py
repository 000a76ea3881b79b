"""How long a run took, and for what: the same words in its report and in a comparison."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from autoprune.problem import Trial
from autoprune.report.tables import seconds
from autoprune.schedule import is_cached


def took(trials: Iterable[Trial], export: Mapping[str, Any] | None) -> str:
    """What of it is known: "2m10s in all, 46 s of evaluations, 36 s of fine-tune and final measurements".

    Args:
        trials: Of the run.
        export: The parsed architecture.json of what it delivered; None before that.
    """
    real = [t for t in trials if not is_cached(t) and t.seconds]
    spent, written = sum(t.seconds for t in real), export["provenance"] if export else {}
    together = " (by all workers together)" if len({t.worker for t in real} - {""}) > 1 else ""
    parts = (
        (written.get("run_seconds"), "in all"),
        (spent, f"of evaluations{together}"),
        (written.get("finetune_seconds"), "of fine-tune and final measurements"),
    )
    return ", ".join(f"{seconds(value)} {what}" for value, what in parts if value)
