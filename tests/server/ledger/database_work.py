"""How much SQLite does for a reader, counted in instructions of its machine: the same on every run and machine."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import event
from sqlalchemy.engine import Engine

EACH = 20
"""Instructions between two counts."""


class Work:
    """What was done, in instructions."""

    def __init__(self) -> None:
        self.done = 0

    def count(self) -> int:
        """Count once more; 0: SQLite goes on."""
        self.done += EACH
        return 0

    def watch(self, connection: sqlite3.Connection, record: object) -> None:
        """Count what a new connection does."""
        del record
        connection.set_progress_handler(self.count, EACH)


@contextmanager
def counted() -> Iterator[Work]:
    """Count what is done by every connection that is opened meanwhile."""
    work = Work()
    event.listen(Engine, "connect", work.watch)
    try:
        yield work
    finally:
        event.remove(Engine, "connect", work.watch)
