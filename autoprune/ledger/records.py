"""What a ledger holds, and how it is read back from an Optuna study."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from autoprune.errors import LedgerMismatch
from autoprune.problem import Trial, TrialState

HEAD = "autoprune"  # the study attribute with format, groups and fingerprint; a study without it was never begun
FORMAT = 1
STATES = {
    TrialState.RUNNING: optuna.trial.TrialState.RUNNING,
    TrialState.COMPLETE: optuna.trial.TrialState.COMPLETE,
    TrialState.PRUNED: optuna.trial.TrialState.PRUNED,
    TrialState.FAIL: optuna.trial.TrialState.FAIL,
}


@dataclass(frozen=True)
class Entry:
    """A trial, and what the controller must remember of it.

    Attributes:
        trial: The fact itself.
        incumbent: Number of the trial it is compared with while it runs.
        same_as: Number of the trial with the same widths whose result it shares instead of being evaluated.
        deaths: How many workers died while they evaluated it.
        order: Its place among the finished trials; -1 while it runs.
        started: When it was asked (local time).
    """

    trial: Trial
    incumbent: int | None = None
    same_as: int | None = None
    deaths: int = 0
    order: int = -1
    started: datetime | None = None


@dataclass(frozen=True)
class Record:
    """What a ledger says at one moment, for readers: no lock is held, nothing can be written.

    Attributes:
        groups: Group name -> number of units, in the order of `Widths`.
        fingerprint: What the problem is.
        entries: Every trial, in number order.
        notes: What else was kept, by key.
    """

    groups: Mapping[str, int]
    fingerprint: Mapping[str, Any]
    entries: tuple[Entry, ...]
    notes: Mapping[str, Any]

    @property
    def trials(self) -> list[Trial]:
        """All trials, in number order."""
        return [e.trial for e in self.entries]


def plain(value: Any) -> Any:
    """`value` as JSON gives it back: numpy and torch numbers become Python's, tuples become lists.

    What is told goes through it at once, so that a trial is the same before and after a resume.

    Raises:
        ValueError: If it cannot be written as JSON.
    """
    try:
        return json.loads(json.dumps(value, default=lambda x: x.tolist()))
    except (TypeError, AttributeError, ValueError, RecursionError) as error:
        text = f"{str(value)[:80]}: must be plain numbers, texts, lists and dictionaries ({error})"
        raise ValueError(text) from None


def frozen_trials(storage: BaseStorage, study: int) -> list[FrozenTrial]:
    """Optuna's trials in number order, not copied."""
    return sorted(storage.get_all_trials(study, deepcopy=False), key=lambda t: t.number)


def read_record(storage: BaseStorage, study: int, where: str) -> Record:
    """All that the study says.

    Raises:
        ValueError: If autoprune did not write it, or a version with another format did.
    """
    attributes = storage.get_study_user_attrs(study)
    head = attributes.get(HEAD, {})
    if head.get("format") != FORMAT:
        raise ValueError(
            f"{where}: its ledger must say what it is about in format {FORMAT}, found {head.get('format', 'nothing')}; "
            "resume it if it was killed at the start, or use the autoprune that wrote it"
        )
    groups = dict(head["groups"])
    entries = tuple(_read_entry(t, groups, where) for t in frozen_trials(storage, study))
    return Record(groups, head["fingerprint"], entries, {k: v for k, v in attributes.items() if k != HEAD})


def _read_entry(frozen: FrozenTrial, groups: Mapping[str, int], where: str) -> Entry:
    said, result = frozen.user_attrs, frozen.user_attrs.get("result", {})
    if "fidelity" not in said or frozen.params.keys() != groups.keys():
        raise ValueError(f"{where}: trial {frozen.number} was not written by autoprune; restore the ledger from a copy")
    trial = Trial(
        number=frozen.number,
        widths=tuple(int(frozen.params[name]) for name in groups),
        state=TrialState(result.get("state", "running")),
        metrics=result.get("metrics", {"cached": True} if "same_as" in said else {}),
        fidelity=said["fidelity"],
        worker=said["owner"],
        seconds=result.get("seconds", 0.0),
        error=result.get("error", ""),
        genes=tuple(said.get("genes", ())),
        probe=said.get("probe", False),
    )
    return Entry(
        trial,
        said.get("incumbent"),
        said.get("same_as"),
        said.get("deaths", 0),
        result.get("order", -1),
        frozen.datetime_start,
    )


def check_same(there: Mapping[str, Any], here: Mapping[str, Any], where: str) -> None:
    """Check that two fingerprints say the same.

    Raises:
        LedgerMismatch: Naming the fields that differ.
    """
    if different := list(differences(plain(there), plain(here))):
        raise LedgerMismatch(
            f"{where}: was begun with another problem: {'; '.join(different)}; "
            "give the same again, or start a run of another name"
        )


def differences(there: Any, here: Any, name: str = "") -> Iterator[str]:
    """Where two fingerprints differ, one text per field."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted(there.keys() | here.keys()):
            yield from differences(there.get(key), here.get(key), f"{name}.{key}" if name else key)
    elif there != here:
        yield f"{name} is {json.dumps(there)[:80]} there and {json.dumps(here)[:80]} here"
