"""The database under the ledger: SQLite or PostgreSQL, one writer at a time, durable when a write returns."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, make_url, text

from fedquit.errors import FedquitError, InputError, UnreachableError, unknown

BUSY_SECONDS = 60  # how long to wait for other writers
CONNECT_SECONDS = 10


class Database:
    """Connections to one database, for reading a snapshot or for writing alone.

    Args:
        url: `sqlite:////path/to/ledger.db` or `postgresql+psycopg://user@host/name`.
        write: False: nothing is made and nothing can be written.
    """

    def __init__(self, url: str, *, write: bool = True) -> None:
        self.url = _parse(url)
        self.shown = self.url.render_as_string(hide_password=True)
        self.sqlite = self.url.get_backend_name() == "sqlite"
        if self.sqlite:
            _prepare_file(Path(self.url.database or ""), make=write)
        self._engine = _engine(self.url, write=write)

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a transaction that sees one moment of the database."""
        options = {} if self.sqlite else {"isolation_level": "REPEATABLE READ"}
        with self._explained(), self._engine.connect() as raw:
            connection = raw.execution_options(**options)
            with connection.begin():
                yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a transaction that is the only one to write; at its end it is on the disk, or never was."""
        options: dict[str, Any] = {"alone": True} if self.sqlite else {"isolation_level": "READ COMMITTED"}
        with self._explained(), self._engine.connect() as raw:
            connection = raw.execution_options(**options)
            with connection.begin():
                yield connection

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn an error of the database into one line that names it."""
        try:
            yield
        except exc.TimeoutError:
            raise UnreachableError(f"the ledger {self.shown} has too many readers at once; try again") from None
        except exc.DBAPIError as error:
            reason = " ".join(str(error.orig).split())
            kind = UnreachableError if isinstance(error, exc.OperationalError | exc.InterfaceError) else FedquitError
            raise kind(f"the ledger {self.shown} cannot be used: {reason}") from error


def _parse(url: str) -> URL:
    """Read a URL and name the driver that we use."""
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except exc.ArgumentError:
        raise InputError(
            f"'{url}' is not a ledger URL; write sqlite:////path/ledger.db or postgresql+psycopg://user@host/name"
        ) from None
    drivers = {"sqlite": "sqlite+pysqlite", "postgresql": "postgresql+psycopg"}
    if backend not in drivers:
        raise unknown("database of a ledger", backend, drivers)
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise InputError("a ledger in memory would be lost; write sqlite:////path/ledger.db")
    return parsed.set(drivername=drivers[backend])


def _prepare_file(path: Path, *, make: bool) -> None:
    """See that the file of the database is there; a new one is for its owner alone, as asks are nobody else's."""
    if path.exists():
        return
    if not make:
        raise InputError(f"there is no ledger {path}")
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise InputError(f"cannot make the ledger {path}: {error.strerror}; make its folder first") from None


def _engine(url: URL, *, write: bool) -> Engine:
    """Make the engine and set up each of its connections."""
    sqlite = url.get_backend_name() == "sqlite"
    try:
        arguments = {} if sqlite else {"connect_timeout": CONNECT_SECONDS}
        engine = create_engine(url, pool_pre_ping=not sqlite, hide_parameters=True, connect_args=arguments)
    except ModuleNotFoundError:
        raise InputError("PostgreSQL needs its driver: pip install 'fedquit[postgres]'") from None

    @event.listens_for(engine, "connect")
    def connected(connection: Any, record: Any) -> None:
        del record
        (_set_up_sqlite if sqlite else _set_up_postgresql)(connection, write)

    if sqlite:

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            alone = connection.get_execution_options().get("alone", False)
            connection.exec_driver_sql("BEGIN IMMEDIATE" if alone else "BEGIN")

    return engine


def _set_up_sqlite(connection: Any, write: bool) -> None:
    """Wait for other writers, survive a power cut, keep references whole; begin transactions ourselves."""
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
    if not write:
        cursor.execute("PRAGMA query_only = ON")
    elif cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _set_up_postgresql(connection: Any, write: bool) -> None:
    """Have a commit return when it is on the disk, whatever the default; let no dead writer block others."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
        )
        cursor.execute(f"SET lock_timeout = '{BUSY_SECONDS}s'")
        cursor.execute(f"SET idle_in_transaction_session_timeout = '{BUSY_SECONDS}s'")
        if not write:
            cursor.execute("SET default_transaction_read_only = on")
    connection.commit()


def alone(connection: Connection) -> None:
    """Keep every other writer out until this transaction ends, where the file's lock does not do so already."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": 0x666564717569})
