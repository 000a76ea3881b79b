"""Who is writing a ledger at the moment, for those who only look on: no lock is taken, not for an instant."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy

from autoprune.ledger.database import address, unreachable
from autoprune.ledger.locks import holder
from autoprune.ledger.membership import MEMBERS
from autoprune.ledger.records import Record
from autoprune.ledger.server import SERVERS, lock_key

_HELD = {  # whether a connection holds the lock; a 64-bit key of PostgreSQL is shown in two halves
    "postgresql": "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND "
    "classid = {high} AND objid = {low} AND database = (SELECT oid FROM pg_database "
    "WHERE datname = current_database())",
    "mysql": "SELECT IS_USED_LOCK('autoprune-{key}') IS NOT NULL",
    "mariadb": "SELECT IS_USED_LOCK('autoprune-{key}') IS NOT NULL",
}


def writers(run: str | Path, record: Record, url: str = "", study: str = "") -> tuple[str, ...]:
    """The controllers that live: the process on this machine, or all of them where the ledger is on a server.

    Args:
        run: The run directory.
        record: What its ledger says.
        url: Of the database, if it is in one.
        study: Its name there.

    Raises:
        ValueError: If the server cannot be reached.
    """
    here = holder(run)
    kind = address(url).partition(":")[0].partition("+")[0] if url else ""
    if kind not in SERVERS:
        return (here,) if here else ()
    names = list(record.notes.get(MEMBERS) or ())
    keys = {name: lock_key(f"{study}\nlives\n{name}") for name in names}
    engine = sqlalchemy.create_engine(address(url), poolclass=sqlalchemy.pool.NullPool)
    try:
        with engine.connect() as connection:

            def holds(number: int) -> bool:
                text = _HELD[kind].format(key=number, high=number >> 32, low=number & 0xFFFFFFFF)
                return bool(connection.execute(sqlalchemy.text(text)).scalar())

            return tuple(name for name in names if holds(keys[name]))
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise unreachable(address(url), error) from error
    finally:
        engine.dispose()
