"""A search that another controller has begun on the same database: what who joins it must agree with."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoprune.config import RunConfig
from autoprune.errors import DeliveredElsewhere
from autoprune.ledger import Ledger, check_same, plain
from autoprune.problem import Trial
from autoprune.runs.prepare import Prepared

SCORES, SCHEDULE, DELIVERED = "scores", "schedule", "delivered"  # what the first controller leaves in the ledger


def joined_scores(config: RunConfig, path: Path) -> tuple[NDArray[np.float64], ...]:
    """The scores of the search that is to be joined: every machine prunes by the very same.

    Raises:
        ValueError: If the settings do not say which search, or there is none of that name.
    """
    if not config.ledger:
        raise ValueError("join: needs the database of the search, --ledger postgresql://... or mysql://...")
    if not config.name:
        raise ValueError("join: needs the --name of the search")
    if not config.ledger.startswith(("postgres", "mysql", "mariadb")):
        raise ValueError(
            f"join: needs a database server, postgresql://... or mysql://..., got --ledger {config.ledger}"
        )
    scores = Ledger.kept_arrays(config.ledger, path.name, SCORES)
    if scores is None:
        raise ValueError(f"join: the database has no study '{path.name}' that can be joined; start it without --join")
    return tuple(scores)


def check_joined(prepared: Prepared, path: Path) -> None:
    """Check that the problem and its schedule are those of the search that is to be joined.

    Raises:
        LedgerMismatch: Naming the fields that differ.
    """
    record = Ledger.read(path, url=prepared.config.ledger)
    check_same(record.fingerprint, prepared.fingerprint(), f"run '{path}'")
    _check_schedule(record.notes.get(SCHEDULE), prepared.config, path)


def agree_on_schedule(ledger: Ledger, config: RunConfig, path: Path) -> None:
    """Have all controllers of a search plan the same trials: the first one says which.

    Raises:
        LedgerMismatch: Naming what differs.
    """
    if config.join:
        _check_schedule(ledger.fresh_note(SCHEDULE), config, path)
    elif ledger.me:
        ledger.note(SCHEDULE, plain(asdict(config.schedule)))


def _check_schedule(there: Any, config: RunConfig, path: Path) -> None:
    if there:
        check_same(there, plain(asdict(config.schedule)), f"run '{path}'")


def say_delivered(ledger: Ledger, trial: Trial, run: Path) -> None:
    """Tell whoever comes later that the winner is there."""
    if ledger.me:
        ledger.note(DELIVERED, {"trial": trial.number, "by": ledger.me, "to": str(run.resolve() / "best")})


def leave_to_leader(ledger: Ledger, trial: Trial, run: Path) -> None:
    """Go on if this controller is to deliver the winner.

    Raises:
        DeliveredElsewhere: If another one does, or has done.
    """
    said = ledger.fresh_note(DELIVERED) or {}
    if said.get("trial") == trial.number and said.get("by") != ledger.me:
        raise DeliveredElsewhere(
            f"run '{run}': over, trial {trial.number} won; {said['by']} delivered it ({said['to']})"
        )
    if not ledger.lead():
        who = ledger.fresh_note("lead")
        text = f"run '{run}': over, trial {trial.number} wins; {who} fine-tunes and exports it in its own directory"
        raise DeliveredElsewhere(text)
