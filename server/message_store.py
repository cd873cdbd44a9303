"""The messages that Flower's SuperLink keeps in its database, and how they are removed for good.

Messages carry models. Flower deletes what was delivered, but a deleted row stays readable in the free space of the file
and in the write-ahead log; and a reply that came too late, or to a coordinator that was killed, is never delivered. At
the boundary after a request nothing is under way, so all messages can go: a late reply then answers nothing, and the
SuperLink does not take it.
"""

import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedquit.strategies.flower_internals import MESSAGE_TABLES

DATABASE = Path("flower") / "state.db"
"""Where the SuperLink's database lies in the folder of a server."""
BATCH = 16
"""Rows removed in one transaction: the SuperLink waits for no more than that."""
BUSY = 5.0
"""Seconds that one statement waits for the SuperLink's own transactions."""
PAUSE = 0.2
"""Seconds between two attempts."""


@dataclass(frozen=True, slots=True)
class Remains:
    """What is left of messages in a database.

    Attributes:
        rows: of the tables that hold messages.
        overwritten: whether the space of what was removed is overwritten or cut off, in the file and in its log.
        reason: why not all is gone; "" if it is.
    """

    rows: int
    overwritten: bool
    reason: str = ""

    def facts(self) -> dict[str, Any]:
        """Return this as a receipt states it.

        >>> Remains(0, overwritten=True).facts()
        {'remaining': 0, 'overwritten': True}
        """
        stated = {"remaining": self.rows, "overwritten": self.overwritten}
        return {**stated, "reason": self.reason} if self.reason else stated


def erase_messages(database: Path, *, patience: float = 60.0) -> Remains | None:
    """Remove all messages from a SuperLink's database, which may be in use, and return what is left.

    Args:
        database: its SQLite file.
        patience: seconds to try for, while the SuperLink is busy with it.

    Returns:
        What is left; None: there is no such file.
    """
    if not database.is_file():
        return None
    end, reason = time.monotonic() + patience, "the database was busy"
    with closing(sqlite3.connect(database, timeout=min(BUSY, patience), isolation_level=None)) as connection:
        while True:
            try:
                _prepare(connection)
                _remove_rows(connection)
                if _overwrite(connection):
                    return Remains(_rows(connection), overwritten=True)
            except sqlite3.Error as error:
                reason = str(error)
            if time.monotonic() >= end:
                return Remains(_rows(connection), overwritten=False, reason=reason)
            time.sleep(PAUSE)


def _prepare(connection: sqlite3.Connection) -> None:
    for pragma in ("foreign_keys = ON", "secure_delete = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _remove_rows(connection: sqlite3.Connection) -> None:
    """Remove all rows, those that let replies in first, a few in each transaction."""
    for table in MESSAGE_TABLES:
        some = f"DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {table} LIMIT {BATCH})"  # noqa: S608 - our names
        while connection.execute(some).rowcount > 0:
            pass


def _overwrite(connection: sqlite3.Connection) -> bool:
    """Build the file anew without free space, and empty its log; False: somebody reads it."""
    connection.execute("VACUUM")
    busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not busy


def _rows(connection: sqlite3.Connection) -> int:
    """Return how many rows there are; -1: that cannot be said."""
    try:
        counts = [connection.execute(f"SELECT count(*) FROM {table}").fetchone() for table in MESSAGE_TABLES]  # noqa: S608
    except sqlite3.Error:
        return -1
    return sum(int(count) for (count,) in counts)
