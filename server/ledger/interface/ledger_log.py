"""The audit log of a ledger, and its check."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from sqlalchemy import select

from fedquit.errors import FedquitError
from fedquit.server.ledger.audit_log.check import check
from fedquit.server.ledger.audit_log.check_since import check_since
from fedquit.server.ledger.audit_log.mark import Mark
from fedquit.server.ledger.audit_log.row_digests import export, read_facts
from fedquit.server.ledger.audit_log.seal import Seal
from fedquit.server.ledger.interface.open_ledger import OpenLedger
from fedquit.server.ledger.rows import Event
from fedquit.server.ledger.storage.tables import events, head
from fedquit.server.ledger.storage.transaction import Writing


class LedgerLog(OpenLedger):
    """What happened, hash-chained and sealed."""

    def note(
        self,
        kind: str,
        *,
        request: str | None = None,
        member: int | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> Event:
        """Add an event of its own to the log.

        Raises:
            InputError: the facts are no JSON, longer than 64 KiB, or have a member "rows".
        """
        with self._writing() as writing:
            return writing.log(kind, request=request, member=member, facts=facts)

    def events(self, *, request: str | None = None, after: int = 0, limit: int | None = None) -> list[Event]:
        """Return the events of that request, after the one numbered `after`; the oldest `limit` of them."""
        query = select(events).where(events.c.number > int(after)).order_by(events.c.number).limit(limit)
        if request is not None:
            query = query.where(events.c.request == request)
        with self._database.read() as connection:
            found = [dict(row._mapping) for row in connection.execute(query)]
        return [Event(**{**fields, "facts": read_facts(fields["facts"])}) for fields in found]

    def newest_events(self, limit: int, *, only: Collection[str] = (), without: Collection[str] = ()) -> list[Event]:
        """Return the newest `limit` events, newest first.

        Args:
            limit: how many at most.
            only: of these kinds; empty: of all.
            without: of none of these kinds.
        """
        query = select(events).order_by(events.c.number.desc()).limit(limit)
        query = query.where(events.c.kind.in_(only)) if only else query
        query = query.where(events.c.kind.not_in(without)) if without else query
        with self._database.read() as connection:
            found = [dict(row._mapping) for row in connection.execute(query)]
        return [Event(**{**fields, "facts": read_facts(fields["facts"])}) for fields in found]

    def head(self) -> tuple[int, str]:
        """Return number and digest of the last event; who notes them can later say whether the log still has it."""
        with self._database.read() as connection:
            at = connection.execute(select(head)).one()
            return at.number, at.digest

    def check_chain(self, *, noted: tuple[int, str] | None = None) -> list[str]:
        """Return what is wrong with the log, its seal (if opened with one) and the rows; [] if nothing.

        Args:
            noted: what `head` returned earlier.
        """
        with self._database.read() as connection:
            return check(connection, self._seal, noted)

    def check_on(self, since: Mark | None) -> tuple[list[str], Mark | None]:
        """Return what is wrong with what came after a mark, and the mark for the next check; None: something is wrong.

        Args:
            since: what this returned earlier; None: everything is checked.
        """
        with self._database.read() as connection:
            wrong = check_since(connection, self._seal, since) if since else check(connection, self._seal)
            return wrong, None if wrong else Mark.of(connection)

    def reseal(self, seal: Seal) -> None:
        """From now on seal the log with `seal`, in place of the key that this ledger was opened with, or of none.

        Raises:
            FedquitError: something is wrong with the log; nothing is sealed.
        """
        with self._database.write() as connection:
            writing = Writing(connection, self._seal, self._clock())
            wrong = check(connection, self._seal)
            if wrong:
                raise FedquitError(f"the ledger is not resealed, as something is wrong: {wrong[0]}")
            writing.log("sealed", seal=seal)
        self._seal = seal

    def export(self) -> Iterator[dict[str, Any]]:
        """Yield every row of one moment, as {"table": ..., "row": ...}: all that an auditor needs.

        A row is what its digest is over; that of an event is the event.
        """
        with self._database.read() as connection:
            yield from export(connection)
