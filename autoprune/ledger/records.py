"""What a ledger holds, and how it is read back from an Optuna study."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from autoprune.errors import LedgerMismatch
from autoprune.fidelity import Fidelity
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
        asked_s: Seconds that controllers had been at work when it was asked: no time passes on this clock while no
            controller runs, and it never jumps.
        since_s: When it was handed out or let go of for the last time, on the same clock.
        told_s: When it finished, likewise.
    """

    trial: Trial
    incumbent: int | None = None
    same_as: int | None = None
    deaths: int = 0
    order: int = -1
    started: datetime | None = None
    asked_s: float = 0.0
    since_s: float = 0.0
    told_s: float = 0.0


@dataclass(frozen=True)
class Record:
    """What a ledger says at one moment, for readers: no lock is held, nothing can be written.

    Attributes:
        groups: Group name -> number of units, in the order of `Widths`.
        fingerprint: What the problem is.
        entries: Every trial, in number order.
        notes: What else was kept, by key.
        heard: The last beginning or end of a trial, on the clock of `Entry.asked_s`, and when that was (local time).
    """

    groups: Mapping[str, int]
    fingerprint: Mapping[str, Any]
    entries: tuple[Entry, ...]
    notes: Mapping[str, Any]
    heard: tuple[float, datetime] | None = None

    @property
    def worked_s(self) -> float:
        """Seconds that controllers have been at work, up to the last time that one wrote."""
        return max((max(e.since_s, e.told_s) for e in self.entries), default=0.0)

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
    if not isinstance(head["fingerprint"], dict):
        raise ValueError(f"{where}: its ledger does not say what its problem is; restore it from a copy")
    frozen = frozen_trials(storage, study)
    entries = tuple(_read_entry(t, groups, where) for t in frozen)
    if odd := [e.trial.number for e in entries if not _is_sane(e)]:
        raise ValueError(f"{where}: trial {odd[0]} was not written by autoprune; restore the ledger from a copy")
    moments = [(e.asked_s, t.datetime_start) for e, t in zip(entries, frozen, strict=True)]
    moments += [(e.told_s, t.datetime_complete) for e, t in zip(entries, frozen, strict=True)]
    heard = max(((s, when) for s, when in moments if when), default=None)
    return Record(groups, head["fingerprint"], entries, {k: v for k, v in attributes.items() if k != HEAD}, heard)


def _read_entry(frozen: FrozenTrial, groups: Mapping[str, int], where: str) -> Entry:
    return begun(frozen.number, frozen.params, frozen.user_attrs, frozen.datetime_start, groups, where)


def _is_sane(entry: Entry) -> bool:
    """Whether numbers are numbers and texts are texts: anybody may have written them."""
    trial = entry.trial
    if not isinstance(trial.metrics, dict):
        return False
    measured = (trial.metrics.get(name, 0.0) for name in ("loss", "seconds_compute"))
    numbers = (trial.seconds, entry.asked_s, entry.since_s, entry.told_s, entry.deaths, entry.order, *measured)
    texts = (trial.fidelity, trial.worker, trial.error)
    return all(isinstance(n, (int, float)) for n in numbers) and all(isinstance(t, str) for t in texts)


def begun(
    number: int,
    params: Mapping[str, Any],
    said: Mapping[str, Any],
    started: datetime | None,
    groups: Mapping[str, int],
    where: str,
) -> Entry:
    """A trial as it was written.

    Args:
        number: Its number.
        params: Group name -> kept units.
        said: What else was written of it.
        started: When it was asked (local time).
        groups: Group name -> number of units.
        where: The ledger, for the error.

    Raises:
        ValueError: If autoprune did not write it.
    """
    if "fidelity" not in said or params.keys() != groups.keys():
        raise ValueError(f"{where}: trial {number} was not written by autoprune; restore the ledger from a copy")
    trial = Trial(
        number=number,
        widths=tuple(int(params[name]) for name in groups),
        metrics={"cached": True} if "same_as" in said else {},
        fidelity=Fidelity(said["fidelity"]),
        genes=tuple(said.get("genes", ())),
        probe=said.get("probe", False),
    )
    return gone_on(Entry(trial, said.get("incumbent"), said.get("same_as"), started=started), said)


def gone_on(entry: Entry, said: Mapping[str, Any]) -> Entry:
    """An entry with what may change of it: who has it, since when, how many died of it, its result."""
    trial = replace(entry.trial, worker=said.get("result", {}).get("worker", said["owner"]))
    if result := said.get("result"):
        trial = replace(
            trial,
            state=TrialState(result["state"]),
            metrics=result["metrics"],
            seconds=result.get("seconds", 0.0),
            error=result.get("error", ""),
        )
    asked_s, order = said.get("asked_s", entry.asked_s), result["order"] if result else -1
    since_s, told_s = said.get("since_s", max(entry.since_s, asked_s)), result.get("told_s", 0.0) if result else 0.0
    more = {"asked_s": asked_s, "since_s": since_s, "told_s": told_s}
    return replace(entry, trial=trial, deaths=said.get("deaths", 0), order=order, **more)


def check_same(there: Mapping[str, Any], here: Mapping[str, Any], where: str) -> None:
    """Check that two fingerprints say the same.

    Raises:
        LedgerMismatch: Naming the fields that differ.
    """
    if different := list(differences(plain(there), plain(here))):
        drawn = any(text.startswith("weights is ") for text in different)
        raise LedgerMismatch(
            f"{where}: was begun with another problem: {'; '.join(different)}; "
            "give the same again, or start a run of another name"
            + " (a network without --weights is drawn anew each time that it is built)"
            * drawn
        )


def differences(there: Any, here: Any, name: str = "") -> Iterator[str]:
    """Where two fingerprints differ, one text per field."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted(there.keys() | here.keys()):
            yield from differences(there.get(key), here.get(key), f"{name}.{key}" if name else key)
    elif there != here:
        yield f"{name} is {json.dumps(there)[:80]} there and {json.dumps(here)[:80]} here"
