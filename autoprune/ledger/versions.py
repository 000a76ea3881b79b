"""The versions that a run has seen: it goes on with others only where that is asked for, and then says so."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import torch

import autoprune
from autoprune.errors import LedgerMismatch
from autoprune.ledger import Ledger, Record, plain
from objectives.latency.environment import cores, cpu_model

Versions = Mapping[str, str]
NOTE = "versions"  # a note of the ledger: those it went on with, and from which trial on
DECISIVE = ("autoprune", "torch", "optuna")  # a search may go another way with others of these


def versions() -> dict[str, str]:
    """What a result may depend on: versions, the processor, the cores and threads it had, the GPUs if any was used."""
    import optuna

    used = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # to ask would start CUDA here
    return {
        "autoprune": autoprune.__version__,
        "torch": torch.__version__,
        "optuna": optuna.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu": cpu_model(),
        "cores": str(cores()),
        "threads": str(torch.get_num_threads()),
        **({"gpu": ", ".join(map(torch.cuda.get_device_name, used))} if used else {}),
    }


def decisive() -> dict[str, str]:
    """Those of this process that the ledger is begun with."""
    return {name: version for name, version in versions().items() if name in DECISIVE}


def seen_by(record: Record | Ledger) -> list[tuple[int, dict[str, str]]]:
    """What a run was begun with, and what it went on with: from which trial on, and the versions."""
    begun = dict(record.fingerprint.get("versions") or {})
    return [(0, begun), *((said["from_trial"], dict(said["versions"])) for said in record.notes.get(NOTE, []))]


def agreed(record: Record, where: object, allow: bool = False) -> dict[str, str]:
    """The versions that a run was begun with, if it may go on with those of this process.

    Args:
        record: Of the run.
        where: Its directory, for the error.
        allow: Whether others are allowed. Those that were allowed before are.

    Raises:
        LedgerMismatch: If they are others.
    """
    here, seen = decisive(), [versions for _, versions in seen_by(record)]
    if not allow and here not in seen:
        there = seen[-1]
        other = [name for name in DECISIVE if there.get(name) != here[name]]
        raise LedgerMismatch(
            f"run '{where}': was made with {_named(there, other)}, and here is {_named(here, other)}, with which the "
            "search may go another way; install the same again, or allow it with --allow-version-change, which is "
            "noted in the ledger and the report"
        )
    return seen[0]


def note_versions(ledger: Ledger) -> None:
    """Write down that a run goes on with other versions than the last ones."""
    here, seen = decisive(), seen_by(ledger)
    if here != seen[-1][1] and ledger.fingerprint.get("versions"):
        ledger.note(NOTE, [*ledger.notes.get(NOTE, []), plain({"from_trial": len(ledger.trials), "versions": here})])


def told(seen: list[tuple[int, dict[str, str]]]) -> str:
    """The versions that a run has seen, in a sentence; "" if they never changed."""
    if len(seen) < 2:
        return ""
    steps = []
    for (_, before), (number, after) in pairwise(seen):
        other = [name for name in DECISIVE if before.get(name) != after.get(name)]
        steps.append(f"from trial {number} on {_named(after, other)} (before: {_named(before, other)})")
    return "; ".join(steps)


def _named(versions: Versions, names: list[str]) -> str:
    return ", ".join(f"{name} {versions.get(name, '?')}" for name in names)
