"""A copy of a ledger at one moment, also while it is written: SQLite's online backup, or pg_dump, and back."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
from pathlib import Path

from sqlalchemy import URL, make_url, text

from fedquit.errors import FedquitError, InputError
from fedquit.files import explained
from fedquit.server.ledger.storage.database import Database

SQLITE, POSTGRESQL = "ledger.db", "ledger.dump"
PATIENCE = 3600.0  # seconds for pg_dump or pg_restore


def copy_ledger(url: str, folder: Path) -> Path:
    """Copy the ledger at `url` into a file in `folder`, and return that.

    Raises:
        InputError: pg_dump is not installed.
        FedquitError: it cannot be copied.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return _copy_sqlite(Path(parsed.database or ""), folder / SQLITE)
    dump = folder / POSTGRESQL
    _run("pg_dump", parsed, "--format=custom", "--no-owner", "--no-privileges", f"--file={dump}")
    return dump


def where_it_is(url: str) -> tuple[int, str, str]:
    """Return number and digest of a ledger's last event, and the model of its last step; of any revision of its tables.

    Raises:
        FedquitError: there is no ledger.
    """
    database = Database(url, write=False)
    try:
        with database.read() as connection:
            head = connection.execute(text("SELECT number, digest FROM head")).one_or_none()
            query = "SELECT model_after FROM steps ORDER BY number DESC LIMIT 1"
            model = connection.execute(text(query)).scalar()
    finally:
        database.close()
    if head is None:
        raise FedquitError(f"{database.shown} holds no ledger")
    return int(head.number), str(head.digest), str(model or "")


def restore_postgresql(dump: Path, url: str) -> None:
    """Restore a copy into an empty database.

    Raises:
        InputError: the URL is none of PostgreSQL, or pg_restore is not installed.
        FedquitError: it cannot be restored, as when the database holds a ledger already.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "postgresql":
        raise InputError("the ledger in it is of PostgreSQL: give --ledger postgresql+psycopg://user@host/name")
    how = ("--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction")
    _run("pg_restore", parsed, *how, str(dump))


def is_ledger_of(url: str) -> str:
    """Return which database a URL is of: "sqlite" or "postgresql"."""
    return make_url(url).get_backend_name()


def _copy_sqlite(source: Path, target: Path) -> Path:
    if not source.is_file():
        raise InputError(f"there is no ledger {source}")
    with explained(target):
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        with (
            contextlib.closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True)) as reading,
            contextlib.closing(sqlite3.connect(target)) as writing,
        ):
            reading.backup(writing)
            writing.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
    except sqlite3.Error as error:
        raise FedquitError(f"the ledger {source} cannot be copied: {error}") from None
    return target


def _run(program: str, url: URL, *arguments: str) -> None:
    """Run a program of PostgreSQL's on a database; its password is not on the command line."""
    where = (url.username, None, url.host, url.port, url.database, url.query)
    shown = URL.create("postgresql", *where).render_as_string(hide_password=False)  # which it does not have
    command = [program, f"--dbname={shown}", *arguments]
    if shutil.which(program) is None:
        raise InputError(
            f"{program} is not installed: apt-get install postgresql-client, or give --without-ledger and run "
            f"elsewhere: {' '.join(command)}"
        )
    environment = {**os.environ, **({"PGPASSWORD": str(url.password)} if url.password else {})}
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FedquitError(f"{program} failed: {error}") from None
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise FedquitError(f"{program} failed: {said[0] if said else f'exit code {done.returncode}'}")
