"""A ledger in the tables that Optuna keeps on a database server, written and read with few, whole transactions.

Optuna's own writing would take three statements per width, and repeat a trial whose commit was not answered.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import sqlalchemy
from optuna.distributions import distribution_to_json
from optuna.trial import FrozenTrial
from sqlalchemy import bindparam, insert, select, update

from autoprune.ledger.pages import Row, State, columns
from autoprune.ledger.server import Session

NAMES = ("study_user_attributes", "trials", "trial_params", "trial_user_attributes", "trial_values")
CHANGES = ("owner", "since_s", "deaths", "result")  # what may change of a trial once it is written


class Tables:
    """The pages of one study; see `Pages`.

    Args:
        session: Through which everything goes.
        study: Its id.

    Attributes:
        last: The highest id of a trial that the ledger has read.
    """

    def __init__(self, session: Session, study: int) -> None:
        self.session, self._study, self.last = session, study, 0
        meta = sqlalchemy.MetaData()
        with session.engine.connect() as connection:
            meta.reflect(connection, only=NAMES)
        tables = [meta.tables[name] for name in NAMES]
        self._notes, self._trials, self._params, self._said, self._values = tables
        self._distributions: dict[str, str] = {}
        trials, said = self._trials, self._said
        here = select(trials.c.trial_id, trials.c.number, trials.c.datetime_start, said.c.key, said.c.value_json)
        here = here.join_from(trials, said, isouter=True).where(trials.c.study_id == study).order_by(trials.c.trial_id)
        running = trials.c.trial_id.in_(bindparam("running", expanding=True)) & said.c.key.in_(CHANGES)
        self._news = here.where((trials.c.trial_id > bindparam("last")) | running)
        params = self._params.c
        self._widths = select(params.trial_id, params.param_name, params.param_value).where(
            params.trial_id.in_(bindparam("ids", expanding=True))
        )

    def start(self, template: FrozenTrial) -> int:
        """Write a new trial; within a turn, which has read all others."""
        with self.session.atomic():
            trial = {"study_id": self._study, "number": template.number, "state": template.state.name}
            asked = template.datetime_start and template.datetime_start.astimezone(timezone.utc).replace(tzinfo=None)
            done = self.session.run(insert(self._trials), {**trial, "datetime_start": asked})
            key = int(done.inserted_primary_key[0])  # type: ignore[index]
            if not self._distributions:
                self._distributions = {n: distribution_to_json(d) for n, d in template.distributions.items()}
            widths = [
                {"trial_id": key, "param_name": n, "param_value": float(w), "distribution_json": self._distributions[n]}
                for n, w in template.params.items()
            ]
            if widths:
                self.session.run(insert(self._params), widths)
            said = [{"trial_id": key, "key": k, "value_json": json.dumps(v)} for k, v in template.user_attrs.items()]
            self.session.run(insert(self._said), said)
        self.last = key
        return key

    def set(self, trial: int, said: Mapping[str, Any]) -> None:
        """Write attributes."""
        with self.session.atomic():
            for key, value in said.items():
                self._put(self._said, {"trial_id": trial, "key": key}, {"value_json": json.dumps(value)})

    def finish(self, trial: int, result: Mapping[str, Any], state: State, values: Sequence[float] | None) -> None:
        """Write the result and the state."""
        with self.session.atomic():
            said = {**columns(result), "result": result}
            rows = [{"trial_id": trial, "key": k, "value_json": json.dumps(v)} for k, v in said.items()]
            self.session.run(insert(self._said), rows)
            for objective, value in enumerate(values or ()):
                what = {"trial_id": trial, "objective": objective, "value": value, "value_type": "FINITE"}
                self.session.run(insert(self._values), what)
            self._end(trial, state)

    def seal(self, trial: int, state: State, values: Sequence[float] | None) -> None:
        """Write the state."""
        with self.session.atomic():
            for objective, value in enumerate(values or ()):
                what = {"value": value, "value_type": "FINITE"}
                self._put(self._values, {"trial_id": trial, "objective": objective}, what)
            self._end(trial, state)

    def note(self, key: str, value: Any) -> None:
        """Write an attribute of the study."""
        with self.session.atomic():
            self._put(self._notes, {"study_id": self._study, "key": key}, {"value_json": json.dumps(value)})

    def read_note(self, key: str) -> Any:
        """An attribute of the study; None if it was never written."""
        found = self.session.run(select(self._notes.c.value_json).filter_by(study_id=self._study, key=key)).scalar()
        return None if found is None else json.loads(found)

    def news(self, running: Collection[int]) -> list[Row]:
        """The trials that were written since, and what became of others: in the order of their ids.

        Args:
            running: Ids of the trials that were not finished when they were last read.
        """
        rows: dict[int, Row] = {}
        found = self.session.run(self._news, {"last": self.last, "running": list(running)})
        for key, number, asked, name, text in map(tuple, found):
            started = asked and asked.replace(tzinfo=timezone.utc).astimezone().replace(tzinfo=None)
            row = rows.setdefault(key, Row(key, number, started, {}, {}))
            if name is not None:
                row.said[name] = json.loads(text)
        if new := [key for key in rows if key > self.last]:
            for key, name, width in map(tuple, self.session.run(self._widths, {"ids": new})):
                rows[key].params[name] = width
            self.last = max(new)
        return [rows[key] for key in sorted(rows)]

    def _end(self, trial: int, state: State) -> None:
        now = datetime.now(timezone.utc).replace(tzinfo=None)
        done = update(self._trials).filter_by(trial_id=trial)
        self.session.run(done.values(state=state.name, datetime_complete=now))

    def _put(self, table: sqlalchemy.Table, where: dict[str, Any], what: dict[str, Any]) -> None:
        """Change a row, or write it."""
        if not self.session.run(update(table).filter_by(**where).values(**what)).rowcount:
            self.session.run(insert(table), {**where, **what})
