"""A copy of a ledger at one moment, also while it is written: SQLite's online backup, or pg_dump, and back."""

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from sqlalchemy import URL, inspect, make_url, text

from fedquit.errors import FedquitError, InputError
from fedquit.files import explained, write_whole
from fedquit.server.ledger.storage.database import Database
from fedquit.server.ledger.storage.tables import metadata

SQLITE, POSTGRESQL = "ledger.db", "ledger.dump"
VERSION = "alembic_version"
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


@contextlib.contextmanager
def restored_postgresql(dump: Path, url: str, noted: Path, in_place: Callable[[], bool]) -> Iterator[None]:
    """Restore a copy into an empty database; if what is done with it fails, the database is empty again.

    It is never emptied once the server is in its place, whenever an error or Ctrl-C comes: the server's folder decides,
    not how far the caller got.

    Args:
        dump: the copy; it is removed.
        url: of the database.
        noted: file in which this notes, before it begins, which copy it restores where; gone, once it has taken that
            out again. If a killed process noted the same, the database is not restored into again: that is one
            transaction, so all of it is there, or nothing. A ledger that has gone on since then is not ours.
        in_place: says whether the server is in its place.

    Raises:
        InputError: the URL is none of PostgreSQL, or pg_restore is not installed.
        FedquitError: it cannot be restored, as when the database holds a ledger already.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "postgresql":
        raise InputError("the ledger in it is of PostgreSQL: give --ledger postgresql+psycopg://user@host/name")
    what = {"database": hashlib.sha256(url.encode()).hexdigest(), "dump": hashlib.sha256(dump.read_bytes()).hexdigest()}
    is_ours = noted.is_file() and noted.read_text(encoding="utf-8") == json.dumps(what)
    holds = _holds_ledger(url)
    if holds and not (is_ours and where_it_is(url)[:2] == _where_dump_is(dump)):
        if is_ours:
            noted.unlink()
        which = "and has gone on since a restore of this backup" if is_ours else "already"
        raise FedquitError(f"the database holds a ledger {which}: give --ledger URL of an empty one")
    write_whole(noted, json.dumps(what).encode())
    try:
        if not holds:
            how = ("--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction")
            _run("pg_restore", parsed, *how, str(dump))
        dump.unlink()
    except FedquitError:
        noted.unlink()
        raise
    try:
        yield
    except BaseException:  # also GeneratorExit: Ctrl-C may come before the caller's outcome reaches this
        if not in_place():
            drop_ledger(url)
            noted.unlink()
        raise


def _where_dump_is(dump: Path) -> tuple[int, str]:
    """Return number and digest of the last event of a ledger in a dump."""
    said = _output(["pg_restore", "--data-only", "--table=head", "--file=-", str(dump)])
    lines = said.splitlines()
    start = next((n for n, line in enumerate(lines) if line.startswith("COPY ")), None)
    if start is None:
        raise FedquitError(f"{dump.name} holds no ledger")
    names = lines[start].partition("(")[2].partition(")")[0].split(", ")
    row = dict(zip(names, lines[start + 1].split("\t"), strict=True))
    return int(row["number"]), row["digest"]


def _holds_ledger(url: str) -> bool:
    """Say whether a database has tables of a ledger."""
    database = Database(url)
    try:
        with database.read() as connection:
            return bool({*inspect(connection).get_table_names()} & {*metadata.tables, VERSION})
    finally:
        database.close()


def drop_ledger(url: str) -> None:
    """Drop the tables of a ledger, all or none."""
    database = Database(url)
    try:
        with database.write() as connection:
            metadata.drop_all(connection)
            connection.execute(text(f"DROP TABLE IF EXISTS {VERSION}"))
    finally:
        database.close()


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
    _output([program, f"--dbname={shown}", *arguments], str(url.password or ""))


def _output(command: list[str], password: str = "") -> str:
    """Run a program of PostgreSQL's and return what it says."""
    program = command[0]
    if shutil.which(program) is None:
        raise InputError(
            f"{program} is not installed: apt-get install postgresql-client, or give --without-ledger and run "
            f"elsewhere: {' '.join(command)}"
        )
    environment = {**os.environ, **({"PGPASSWORD": password} if password else {})}
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FedquitError(f"{program} failed: {error}") from None
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise FedquitError(f"{program} failed: {said[0] if said else f'exit code {done.returncode}'}")
    return done.stdout
