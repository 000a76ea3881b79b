"""A ledger in a database: which addresses are accepted, and the lock that keeps two controllers apart."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import re
from pathlib import Path

import sqlalchemy
from optuna.storages import RDBStorage

from autoprune.errors import RunIsLive
from autoprune.ledger.locks import FileLock, Lock

_DRIVERS = {  # kind of database -> {module to import: its name in a URL}, the first one installed is taken
    "postgresql": {"psycopg2": "psycopg2", "psycopg": "psycopg"},
    "mysql": {"pymysql": "pymysql", "MySQLdb": "mysqldb"},
    "mariadb": {"pymysql": "pymysql", "MySQLdb": "mysqldb"},
    "sqlite": {"sqlite3": "pysqlite"},
}
_CLAIMS = {  # locks of the server that are held by a connection and end with it
    "postgresql": "SELECT pg_try_advisory_lock({key})",
    "mysql": "SELECT GET_LOCK('autoprune-{key}', 0)",
    "mariadb": "SELECT GET_LOCK('autoprune-{key}', 0)",
}


def address(url: str) -> str:
    """The full SQLAlchemy URL: "postgresql://..." need not name a driver.

    Raises:
        ValueError: If it is no URL, of an unknown kind of database, or no driver for it is installed.
    """
    try:
        parts = sqlalchemy.make_url(url.replace("postgres://", "postgresql://", 1))
    except (sqlalchemy.exc.ArgumentError, ValueError):
        masked, example = re.sub(r":/*.*@", "://***@", url), "postgresql://user@host/database"
        raise ValueError(f"ledger '{masked}': not the address of a database; expected e.g. {example}") from None
    kind = parts.drivername.partition("+")[0]
    if kind not in _DRIVERS:
        raise ValueError(f"ledger '{kind}://...': unknown kind of database; known: {', '.join(_DRIVERS)}")
    if "+" in parts.drivername:
        return parts.render_as_string(hide_password=False)
    for module, driver in _DRIVERS[kind].items():
        if importlib.util.find_spec(module):
            return parts.set(drivername=f"{kind}+{driver}").render_as_string(hide_password=False)
    names = " or ".join(_DRIVERS[kind])
    raise ValueError(f"ledger '{kind}://...': needs the Python package {names}, which is not installed")


def shown(url: str) -> str:
    """The URL without its passwords."""
    parts = sqlalchemy.make_url(url)
    return parts.update_query_dict({k: "***" for k in _secrets(parts)}).render_as_string(hide_password=True)


def refuse_password(url: str) -> None:
    """Check that an address can be kept in a file: it names a database that is known here, and no password.

    Raises:
        ValueError: If not.
    """
    parts = sqlalchemy.make_url(address(url))
    if parts.password or _secrets(parts):
        raise ValueError(
            f"ledger '{shown(url)}': the password would be kept in config.toml; leave it out, and give it in "
            "PGPASSWORD or ~/.pgpass (MySQL: ?read_default_file=~/.my.cnf)"
        )


def _secrets(parts: sqlalchemy.URL) -> dict[str, str]:
    """The passwords that stand behind the question mark, by name."""
    return {key: str(value) for key, value in parts.query.items() if "passw" in key.lower()}


def connect(url: str) -> RDBStorage:
    """Optuna's storage in that database; its tables are made if missing.

    Raises:
        ValueError: If the server cannot be reached or refuses.
    """
    try:
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        raise _unreachable(url, error) from error


def lock_study(url: str, study: str) -> Lock:
    """Be the only controller of that study, on whichever machine.

    Raises:
        RunIsLive: If there is another one.
        ValueError: If the server cannot be reached.
    """
    parts = sqlalchemy.make_url(url)
    if parts.get_backend_name() != "sqlite":
        return DatabaseLock(url, study)
    return FileLock(Path(f"{parts.database or ''}.{study}.lock"), f"study '{study}'")


class DatabaseLock:
    """A lock of the server, tied to a connection: its holder's death sets it free.

    A restart of the server ends it too, but also the ledger's own connections: the run stops, resumable.
    """

    def __init__(self, url: str, study: str) -> None:
        claim = _CLAIMS[sqlalchemy.make_url(url).get_backend_name()]
        key = int.from_bytes(hashlib.sha256(f"autoprune {study}".encode()).digest()[:7], "big")
        self._engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool)
        try:
            self._connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            won = self._connection.execute(sqlalchemy.text(claim.format(key=key))).scalar()
        except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
            raise _unreachable(url, error) from error
        if not won:
            self.release()
            raise RunIsLive(f"study '{study}': another controller is writing it in '{shown(url)}'; stop it, or wait")

    def release(self) -> None:
        """Let go; may be repeated."""
        with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError):  # the server may be gone, and the lock with it
            self._connection.close()
        self._engine.dispose()


def _unreachable(url: str, error: Exception) -> ValueError:
    first, parts = str(error.__cause__ or error).strip().splitlines()[0], sqlalchemy.make_url(url)
    for secret in filter(None, (parts.password, *_secrets(parts).values())):
        first = first.replace(secret, "***")
    return ValueError(f"ledger '{shown(url)}': no connection ({first}); check that the server runs, and the address")
