"""A search that another controller has begun on the same database: what who joins it must agree with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoprune.config import RunConfig
from autoprune.errors import DeliveredElsewhere, LedgerMismatch
from autoprune.ledger import Ledger, check_same, plain
from autoprune.problem import Problem, Trial
from autoprune.runs.prepare import Prepared
from autoprune.source import code
from objectives.latency import Latency

SCORES, LATENCY, SCHEDULE, DELIVERED = "scores", "latency", "schedule", "delivered"  # left in the ledger by the first
CODE = "code"  # that the controller in the lead runs: no part of the problem, a search may go on with another


def shared(problem: Problem) -> dict[str, Sequence[NDArray[np.float64]]]:
    """What the first controller keeps beside the ledger, for `joined_scores` and `joined_latency`.

    Predictors are kept as the bytes of their JSON, a number each: arrays are what every database takes.
    """
    known = json.dumps({name: latency.to_json() for name, latency in problem.latency.items()}).encode()
    latency = {LATENCY: [np.frombuffer(known, np.uint8).astype(np.float64)]} if problem.latency else {}
    return {SCORES: problem.scores, **latency}


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


def joined_latency(config: RunConfig, path: Path) -> dict[str, Latency]:
    """The predictors of the search that is to be joined, by metric: every machine trusts the very same."""
    kept = Ledger.kept_arrays(config.ledger, path.name, LATENCY)
    known = json.loads(kept[0].astype(np.uint8).tobytes()) if kept else {}
    return {name: Latency.from_json(data) for name, data in known.items()}


def check_joined(prepared: Prepared, path: Path) -> None:
    """Check that the problem, its schedule and the code are those of the search that is to be joined.

    Raises:
        LedgerMismatch: Naming what differs.
    """
    record = Ledger.read(path, url=prepared.config.ledger)
    check_same(record.fingerprint, prepared.fingerprint(), f"run '{path}'")
    _check_schedule(record.notes.get(SCHEDULE), prepared.config, path)
    _check_code(record.notes.get(CODE), path)


def agree_on_plan(ledger: Ledger, config: RunConfig, path: Path) -> None:
    """Have all controllers of a search plan the same trials, by the same code: the first one says which.

    Raises:
        LedgerMismatch: Naming what differs.
    """
    if config.join:
        _check_schedule(ledger.fresh_note(SCHEDULE), config, path)
        _check_code(ledger.fresh_note(CODE), path)
    elif ledger.me:
        ledger.note(SCHEDULE, _planned(config))
        ledger.note(CODE, code())


def _check_schedule(there: Any, config: RunConfig, path: Path) -> None:
    if there:
        check_same(there, _planned(config), f"run '{path}'")


def _check_code(there: Any, path: Path) -> None:
    if there and there != code():
        raise LedgerMismatch(
            f"run '{path}': this machine has autoprune {code()} instead of {there}; install the same as where the "
            "search was started, or stop all its controllers and resume the first without --join"
        )


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
