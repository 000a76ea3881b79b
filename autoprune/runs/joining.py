"""A search that another controller has begun on the same database: what who joins it must agree with."""

from __future__ import annotations

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
        ledger.note(SCHEDULE, _planned(config))


def _check_schedule(there: Any, config: RunConfig, path: Path) -> None:
    if there:
        check_same(there, _planned(config), f"run '{path}'")


def say_delivered(ledger: Ledger, trial: Trial, run: Path, best: Trial | None = None) -> None:
    """Tell whoever comes later that the winner is there.

    Args:
        ledger: Of the run.
        trial: That was delivered.
        run: Its directory.
        best: Of all trials, where that may be another one: measured, it did not hold a latency budget.
    """
    if ledger.me:
        said = {"trial": trial.number, "best": (best or trial).number, "by": ledger.me}
        ledger.note(DELIVERED, {**said, "to": str(run.resolve() / "best")})


def leave_to_leader(ledger: Ledger, trial: Trial, run: Path) -> None:
    """Go on if this controller is to deliver the winner.

    Raises:
        DeliveredElsewhere: If another one does, or has done.
    """
    said = ledger.fresh_note(DELIVERED) or {}
    if said.get("best", said.get("trial")) == trial.number and said.get("by") != ledger.me:
        raise DeliveredElsewhere(
            f"run '{run}': over, trial {said['trial']} won; {said['by']} delivered it ({said['to']})"
        )
    if not ledger.lead():
        who = ledger.fresh_note("lead")
        text = f"run '{run}': over, trial {trial.number} wins; {who} fine-tunes and exports it in its own directory"
        raise DeliveredElsewhere(text)


def _planned(config: RunConfig) -> Any:
    """What of the schedule is a setting."""
    plan = config.schedule
    return plain({"num_trials": plan.num_trials, "rungs": plan.rungs, "first": plan.first})
