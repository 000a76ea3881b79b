"""What a ledger needs of the place where it is kept, and the two simple places: a journal file and SQLite."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import optuna
import sqlalchemy
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from autoprune.errors import LedgerUnwritable

State = optuna.trial.TrialState


@dataclass
class Row:
    """A trial as somebody else has written it.

    Attributes:
        id: In the storage.
        number: In its study.
        started: When it was asked (local time).
        said: Its attributes; of a trial that was read before, those that may change.
        params: Its widths by group; of a new one only.
    """

    id: int
    number: int
    started: datetime | None
    said: dict[str, Any]
    params: dict[str, float]


class Pages(Protocol):
    """Where the trials of one study are written. Each call is one operation: carried out whole or not at all."""

    def start(self, template: FrozenTrial) -> int:
        """Write a new trial; returns its id. Raises ValueError if others write too."""

    def set(self, trial: int, said: Mapping[str, Any]) -> None:
        """Write attributes of the trial with that id."""

    def finish(self, trial: int, result: Mapping[str, Any], state: State, values: Sequence[float] | None) -> None:
        """Write a trial's result, then its final state; the result is the commit."""

    def seal(self, trial: int, state: State, values: Sequence[float] | None) -> None:
        """Write a trial's final state."""

    def note(self, key: str, value: Any) -> None:
        """Write an attribute of the study."""

    def read_note(self, key: str) -> Any:
        """An attribute of the study; None if it was never written."""

    def news(self, running: Collection[int]) -> list[Row]:
        """The trials that others wrote since, and what became of those with the ids `running`, by id."""


class StoragePages:
    """An Optuna storage of which one controller is the only writer."""

    def __init__(self, storage: BaseStorage, study: int) -> None:
        self._storage, self._study = storage, study

    def start(self, template: FrozenTrial) -> int:
        """Write a new trial."""
        trial = self._storage.create_new_trial(self._study, template)
        if (written := self._storage.get_trial_number_from_id(trial)) != template.number:
            text = f"trial {template.number}: written as {written}; somebody else adds trials: stop them and resume"
            raise ValueError(text)
        return trial

    def set(self, trial: int, said: Mapping[str, Any]) -> None:
        """Write attributes, one by one."""
        for key, value in said.items():
            self._storage.set_trial_user_attr(trial, key, value)

    def finish(self, trial: int, result: Mapping[str, Any], state: State, values: Sequence[float] | None) -> None:
        """Write the result, then the state: a kill between the two loses nothing."""
        self.set(trial, {**columns(result), "result": result})
        self.seal(trial, state, values)

    def seal(self, trial: int, state: State, values: Sequence[float] | None) -> None:
        """Write the state."""
        self._storage.set_trial_state_values(trial, state, values)

    def note(self, key: str, value: Any) -> None:
        """Write an attribute of the study."""
        self._storage.set_study_user_attr(self._study, key, value)

    def read_note(self, key: str) -> Any:
        """An attribute of the study."""
        return self._storage.get_study_user_attrs(self._study).get(key)

    def news(self, running: Collection[int]) -> list[Row]:
        """Nothing: nobody else writes."""
        return []


def columns(result: Mapping[str, Any]) -> dict[str, Any]:
    """What of a result `optuna-dashboard` is to show in a column of its own, beside the loss; nobody else reads it."""
    known = result["metrics"].items()
    return {k: v for k, v in known if isinstance(v, float) and k != "loss" and not k.startswith("seconds")}


@contextlib.contextmanager
def writing(what: str) -> Iterator[None]:
    """Turns what a database throws into one sentence (the journal speaks for itself)."""
    try:
        yield
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        cause = str(error.__cause__ or error).strip().splitlines()[0]
        text = f"{what}: the database does not take it ({cause}); what it took before is safe: repair it and resume"
        raise LedgerUnwritable(text) from error
