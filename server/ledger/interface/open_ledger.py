"""An open ledger: its database, the seal of its log, and transactions that write alone."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Self

from fedquit.server.ledger.audit_log.counted_refusals import Entry, Refusals
from fedquit.server.ledger.audit_log.seal import Seal
from fedquit.server.ledger.storage.database import Database
from fedquit.server.ledger.storage.migrate import check_revision, migrate
from fedquit.server.ledger.storage.transaction import Writing


class OpenLedger:
    """What all parts of a ledger share; see `fedquit.server.ledger.Ledger`."""

    def __init__(self, database: Database, seal: Seal | None, clock: Callable[[], float]) -> None:
        self._database = database
        self._seal = seal
        self._clock = clock
        self._refusals = Refusals()

    @classmethod
    def open(
        cls, url: str, *, seal: Seal | None = None, write: bool = True, clock: Callable[[], float] = time.time
    ) -> Self:
        """Open the ledger at `url` and bring its tables up to date; make it if it is not there.

        Args:
            url: `sqlite:////path/ledger.db` or `postgresql+psycopg://user@host/name`.
            seal: seals the head of the log. A ledger that was begun with one is written with that one only.
            write: False only reads: nothing is made, migrated or written.
            clock: the time, Unix seconds.

        Raises:
            InputError: the URL is wrong, or (`write=False`) there is no ledger.
            FedquitError: a newer fedquit made it.
            UnreachableError: the database does not answer.
        """
        database = Database(url, write=write)
        try:
            (migrate if write else check_revision)(database)
        except BaseException:
            database.close()
            raise
        return cls(database, seal, clock)

    def close(self) -> None:
        """Log what was counted of refusals, and close the connections."""
        try:
            self._log_all(self._refusals.rest(now=self._clock()))
        finally:
            self._database.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Writing]:
        """Open a transaction that alone may write."""
        now = self._clock()
        self._log_all(self._refusals.overdue(now=now))
        with self._database.write() as connection:
            yield Writing(connection, self._seal, now)

    def _log_all(self, entries: list[Entry]) -> None:
        """Log what is to be said of refusals."""
        if entries:
            with self._database.write() as connection:
                writing = Writing(connection, self._seal, self._clock())
                for kind, member, facts in entries:
                    writing.log(kind, member=member, facts=facts)
