"""A ledger in a database: which addresses are accepted, and what is said when there is no connection."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

import sqlalchemy
from optuna.storages import RDBStorage

from autoprune.files import check_writable

_DRIVERS = {  # kind of database -> {module to import: its name in a URL}, the first one installed is taken
    "postgresql": {"psycopg2": "psycopg2", "psycopg": "psycopg"},
    "mysql": {"pymysql": "pymysql", "MySQLdb": "mysqldb"},
    "mariadb": {"pymysql": "pymysql", "MySQLdb": "mysqldb"},
    "sqlite": {"sqlite3": "pysqlite"},
}


def address(url: str) -> str:
    """The full SQLAlchemy URL: "postgresql://..." need not name a driver.

    Raises:
        ValueError: If it is no URL, of an unknown kind of database or one in memory, or no driver for it is installed.
    """
    try:
        parts = sqlalchemy.make_url(url.replace("postgres://", "postgresql://", 1))
    except (sqlalchemy.exc.ArgumentError, ValueError):
        masked, example = re.sub(r":/*.*@", "://***@", url), "postgresql://user@host/database"
        raise ValueError(f"ledger '{masked}': not the address of a database; expected e.g. {example}") from None
    kind = parts.drivername.partition("+")[0]
    if kind not in _DRIVERS:
        raise ValueError(f"ledger '{kind}://...': unknown kind of database; known: {', '.join(_DRIVERS)}")
    if kind == "sqlite" and _in_memory(parts):
        file = f"/{parts.database}" if parts.database else ""
        raise ValueError(
            f"ledger 'sqlite://{file}': is in memory, where nothing can be read afterwards; give a file, "
            "sqlite:///path.db, or leave --ledger out"
        )
    if "+" in parts.drivername:
        return parts.render_as_string(hide_password=False)
    for module, driver in _DRIVERS[kind].items():
        if importlib.util.find_spec(module):
            return parts.set(drivername=f"{kind}+{driver}").render_as_string(hide_password=False)
    names = " or ".join(_DRIVERS[kind])
    raise ValueError(f"ledger '{kind}://...': needs the Python package {names}, which is not installed")


def _in_memory(parts: sqlalchemy.URL) -> bool:
    """Whether SQLite keeps no file (https://www.sqlite.org/inmemorydb.html)."""
    where = parts.database or ""
    return where in ("", ":memory:") or where.startswith("file::memory:") or parts.query.get("mode") == "memory"


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
        raise unreachable(url, error) from error


def answers(url: str) -> str:
    """Who answers at an address, in words; nothing is made there.

    Raises:
        ValueError: If it is no address, or nobody does.
    """
    full = address(url)
    parts = sqlalchemy.make_url(full)
    if parts.get_backend_name() == "sqlite":  # to connect would make the file
        check_writable(Path(str(parts.database)))
        return f"{parts.database} can be written"
    try:
        with sqlalchemy.create_engine(full, poolclass=sqlalchemy.pool.NullPool).connect() as connection:
            version = ".".join(map(str, connection.dialect.server_version_info or ()))
            return f"{parts.get_backend_name()} {version} answers"
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        raise unreachable(url, error) from error


def reason(url: str, error: Exception) -> str:
    """The first line of what a database said, without the passwords of its URL."""
    first, parts = (str(error.__cause__ or error).strip().splitlines() or [""])[0], sqlalchemy.make_url(url)
    for secret in filter(None, (parts.password, *_secrets(parts).values(), os.environ.get("PGPASSWORD"))):
        first = first.replace(secret, "***")
    return first


def unreachable(url: str, error: Exception) -> ValueError:
    """What to tell the user."""
    text = f"no connection ({reason(url, error)}); check that the server runs, and the address"
    return ValueError(f"ledger '{shown(url)}': {text}")
