"""The SQLite file of a device's record: what is written is on the disk when the call returns, and whole or not there.

Several processes may hold it open: Flower starts one for every message, and the owner's commands look at it meanwhile.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from fedquit.errors import FedquitError
from fedquit.files import explained

VERSIONS = (
    """
    CREATE TABLE rounds (
        federation TEXT NOT NULL, run TEXT NOT NULL, phase TEXT NOT NULL, number INTEGER NOT NULL,
        model_in TEXT NOT NULL, model_out TEXT NOT NULL, num_examples INTEGER NOT NULL, samples_digest TEXT NOT NULL,
        at REAL NOT NULL,
        UNIQUE (run, phase, number, model_in, samples_digest)
    );
    CREATE TABLE sample_sets (samples_digest TEXT PRIMARY KEY NOT NULL, digests BLOB NOT NULL);
    CREATE TABLE marks (
        request TEXT PRIMARY KEY NOT NULL, granularity TEXT NOT NULL, digests BLOB NOT NULL, labels TEXT NOT NULL,
        marked_at REAL NOT NULL, retired_at REAL
    );
    CREATE TABLE retired (digest BLOB PRIMARY KEY NOT NULL, content BLOB, request TEXT NOT NULL, at REAL NOT NULL);
    CREATE TABLE asks (
        number INTEGER PRIMARY KEY AUTOINCREMENT, granularity TEXT NOT NULL, digests BLOB NOT NULL, note TEXT NOT NULL,
        put_at REAL NOT NULL, request TEXT NOT NULL DEFAULT '', ask BLOB NOT NULL DEFAULT x'',
        signature BLOB NOT NULL DEFAULT x'', signed_at REAL NOT NULL DEFAULT 0
    );
    CREATE TABLE replies (
        request TEXT NOT NULL, exercise TEXT NOT NULL, num_examples INTEGER NOT NULL, loss REAL NOT NULL,
        metrics TEXT NOT NULL, model_out TEXT NOT NULL, at REAL NOT NULL,
        PRIMARY KEY (request, exercise)
    );
    """,
    "ALTER TABLE asks ADD COLUMN signings INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE asks ADD COLUMN refused TEXT NOT NULL DEFAULT ''",
    # a sample has a content for each reading, of the version that its digest says; retired.content is of the first
    "CREATE TABLE contents (digest BLOB NOT NULL, content BLOB NOT NULL, PRIMARY KEY (digest, content)) WITHOUT ROWID",
    # of the commitments that were sent: what opens one is on no other machine
    "CREATE TABLE salts (samples_digest TEXT PRIMARY KEY NOT NULL, salt BLOB NOT NULL) WITHOUT ROWID",
)
WAIT = 30.0  # seconds for another process to finish its transaction


class Database:
    """An open record file; every method is one transaction."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        with self._explained():
            self._connection = sqlite3.connect(path, timeout=WAIT, isolation_level=None)
        try:
            with self._explained():
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = FULL")
            self._upgrade()
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _upgrade(self) -> None:
        with self.writing() as cursor:
            (version,) = cursor.execute("PRAGMA user_version").fetchone()
            if version > len(VERSIONS):
                raise FedquitError(f"{self.path} was written by a newer fedquit; install that one on this device")
            for number, statements in enumerate(VERSIONS[version:], version + 1):
                for statement in filter(str.strip, statements.split(";")):
                    cursor.execute(statement)
                cursor.execute(f"PRAGMA user_version = {number}")

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Cursor]:
        """Yield a cursor within a transaction that is on the disk afterwards, or was never begun."""
        with self._explained(), closing(self._connection.cursor()) as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            try:
                yield cursor
            except BaseException:
                cursor.execute("ROLLBACK")
                raise
            cursor.execute("COMMIT")

    def read(self, query: str, *values: object) -> list[tuple]:  # type: ignore[type-arg]
        """Return the rows that answer a question."""
        with self._explained():
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn an error of SQLite into one line that names the file and the way out."""
        try:
            yield
        except sqlite3.IntegrityError:  # our own mistake
            raise
        except sqlite3.OperationalError as error:
            raise FedquitError(
                f"cannot use the record {self.path}: {error}; make room, or let this user write it"
            ) from error
        except sqlite3.DatabaseError as error:
            raise FedquitError(
                f"the record {self.path} is damaged ({error}); restore it from a copy: without it this device does not "
                "know what it retired, and no longer takes part"
            ) from error
