"""A controller's one connection to a database server: it holds the controller's locks and does all its writing.

A server frees the locks of a connection that ends, however it ends. What is written goes through the same connection:
who has lost the locks cannot write.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy
from sqlalchemy.exc import DBAPIError, InvalidRequestError, SQLAlchemyError

from autoprune.errors import LedgerUnwritable
from autoprune.ledger.database import reason, shown

PATIENCE_S = 60.0  # for a server that is gone to come back
PAUSES_S = (0.1, 5.0)  # between two attempts: the first, doubled up to the last
SERVERS = ("postgresql", "mysql", "mariadb")  # kinds of database that several machines may write at once
_MY_LOCK, _MY_UNLOCK = "SELECT GET_LOCK('autoprune-{key}', {wait})", "SELECT RELEASE_LOCK('autoprune-{key}')"
_MINUTE = (  # a machine that vanished is noticed within a minute; a wait for a lock can be interrupted
    "SELECT set_config('tcp_keepalives_idle', '30', false), set_config('tcp_keepalives_interval', '10', false), "
    "set_config('tcp_keepalives_count', '3', false), set_config('lock_timeout', '5s', false)"
)


class Disconnected(LedgerUnwritable):
    """The connection is gone, and the locks with it."""


class Session:
    """The connection.

    Args:
        url: The full address of a server.

    Attributes:
        engine: Makes connections to the same place.
        back_at: When it last had to connect again (monotonic clock), -inf if never.

    Raises:
        SQLAlchemyError: If the server cannot be reached.
    """

    def __init__(self, url: str) -> None:
        self.url, self.back_at = url, float("-inf")
        parts = sqlalchemy.make_url(url)
        self._postgres = parts.get_backend_name() == "postgresql"
        options = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 60_000}
        mine = {k: v for k, v in options.items() if k not in parts.query} if self._postgres else {}
        self.engine = sqlalchemy.create_engine(
            url, poolclass=sqlalchemy.pool.NullPool, isolation_level="AUTOCOMMIT", connect_args=mine
        )
        self._connection: sqlalchemy.Connection | None = None
        self.connect()

    def connect(self) -> None:
        """Connect, once."""
        self.close()
        self._connection = self.engine.connect()
        if self._postgres:
            self.run(sqlalchemy.text(_MINUTE))

    def reconnect(self, say: Callable[[str], None]) -> None:
        """Connect again; a server that is gone gets a minute.

        Raises:
            LedgerUnwritable: If it does not come back.
        """
        give_up, pause_s, said = time.monotonic() + PATIENCE_S, PAUSES_S[0], False
        while True:
            try:
                self.connect()
                self.back_at = time.monotonic()
                return
            except (SQLAlchemyError, Disconnected) as error:
                why = reason(self.url, error)
            if time.monotonic() + pause_s > give_up:
                raise LedgerUnwritable(
                    f"ledger '{shown(self.url)}': the database does not come back ({why}); everything recorded before "
                    "is safe: start the server, then resume"
                )
            if not said:
                say(f"ledger '{shown(self.url)}': no connection ({why}); trying again for {PATIENCE_S:.0f} s")
                said = True
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSES_S[1])

    def run(self, statement: sqlalchemy.Executable, values: Any = None) -> sqlalchemy.CursorResult[Any]:
        """Execute one statement.

        Raises:
            Disconnected: If the connection is gone; the statement may have been carried out all the same.
            SQLAlchemyError: If the server refuses it.
        """
        connection = self._connection
        if connection is None or connection.invalidated:  # SQLAlchemy would connect again by itself, without the locks
            raise self._gone("closed")
        try:
            return connection.execute(statement, values)
        except (DBAPIError, InvalidRequestError) as error:
            if connection.invalidated:
                raise self._gone(reason(self.url, error)) from error
            raise

    @contextlib.contextmanager
    def atomic(self) -> Iterator[None]:
        """All statements of the block or none."""
        self.run(sqlalchemy.text("BEGIN"))
        try:
            yield
            self.run(sqlalchemy.text("COMMIT"))
        except BaseException:
            with contextlib.suppress(SQLAlchemyError, Disconnected):
                self.run(sqlalchemy.text("ROLLBACK"))
            raise

    def lock(self, name: str, wait_s: float = 0.0) -> bool:
        """Take the lock of that name, held by at most one connection to the server; whether it could be had."""
        key, give_up = lock_key(name), time.monotonic() + wait_s
        while True:
            left_s = give_up - time.monotonic()
            if self._try(key, max(0.0, min(5.0, left_s))):
                return True
            if left_s <= 5.0:
                return False

    def unlock(self, name: str) -> None:
        """Let go of a lock."""
        text = "SELECT pg_advisory_unlock({key})" if self._postgres else _MY_UNLOCK
        self.run(sqlalchemy.text(text.format(key=lock_key(name))))

    def release(self) -> None:
        """Let go of all locks at once (the server takes a moment to notice that a connection is closed), and close."""
        with contextlib.suppress(SQLAlchemyError, Disconnected):
            self.run(sqlalchemy.text(f"SELECT {'pg_advisory_unlock_all' if self._postgres else 'RELEASE_ALL_LOCKS'}()"))
        self.close()

    def close(self) -> None:
        """Close the connection; may be repeated."""
        if self._connection is not None:
            with contextlib.suppress(SQLAlchemyError):  # the server may be gone
                self._connection.close()
            self._connection = None
        self.engine.dispose()

    def _try(self, key: int, wait_s: float) -> bool:
        if not self._postgres:
            return bool(self.run(sqlalchemy.text(_MY_LOCK.format(key=key, wait=round(wait_s)))).scalar())
        if not wait_s:
            return bool(self.run(sqlalchemy.text(f"SELECT pg_try_advisory_lock({key})")).scalar())
        try:
            self.run(sqlalchemy.text(f"SELECT pg_advisory_lock({key})"))  # at most `lock_timeout`
        except DBAPIError as error:
            if getattr(error.orig, "pgcode", getattr(error.orig, "sqlstate", "")) == "55P03":  # lock not available
                return False
            raise
        return True

    def _gone(self, why: str) -> Disconnected:
        self.close()
        text = f"the connection is gone ({why}); resume when the server is back"
        return Disconnected(f"ledger '{shown(self.url)}': {text}")


def lock_key(name: str) -> int:
    """The number of the lock of that name."""
    return int.from_bytes(hashlib.sha256(f"autoprune {name}".encode()).digest()[:7], "big")
