"""The ledger: who takes part, who asked to be forgotten and how far that is, what each round contained, and the log.

The service and the coordinator both hold it open. Every method that writes is one transaction, alone, and on the disk
when it returns; each writes its event. See docs/ledger.md.
"""

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Self

from sqlalchemy import select

from fedquit.errors import FedquitError, InputError
from fedquit.server.ledger import members, requests, steps, totals
from fedquit.server.ledger.audit_log.check import check
from fedquit.server.ledger.audit_log.check_since import check_since
from fedquit.server.ledger.audit_log.counted_refusals import Entry, Refusals
from fedquit.server.ledger.audit_log.mark import Mark
from fedquit.server.ledger.audit_log.row_digests import export, read_facts
from fedquit.server.ledger.audit_log.seal import Seal
from fedquit.server.ledger.request_states import STATES, UNDER_WAY
from fedquit.server.ledger.rows import (
    Event,
    Member,
    MemberTotals,
    NewRequest,
    PhaseTotals,
    Request,
    RequestLine,
    Step,
)
from fedquit.server.ledger.storage.database import Database
from fedquit.server.ledger.storage.migrate import check_revision, migrate
from fedquit.server.ledger.storage.tables import events, head
from fedquit.server.ledger.storage.transaction import Writing


class Ledger:
    """An open ledger; threads may share it, forked processes may not.

    >>> import tempfile
    >>> ledger = Ledger.open(f"sqlite:///{tempfile.mkdtemp()}/ledger.db")
    >>> ledger.enrol("north clinic", b"its public key").number
    0
    >>> [event.kind for event in ledger.events()], ledger.check_chain()
    (['enrolled'], [])
    >>> ledger.close()
    """

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

    # Members

    def enrol(self, name: str, key: bytes, role: str = "device") -> Member:
        """Add a member by its public key (DER); a known key is the member that it was, also a withdrawn one.

        Raises:
            InputError: the role is neither "device" nor "operator", or there is no name or key.
        """
        with self._writing() as writing:
            return members.enrol(writing, name, key, role)

    def members(self) -> list[Member]:
        """Return all members, in the order of their numbers."""
        with self._database.read() as connection:
            return members.all_of(connection)

    def member(self, number: int) -> Member:
        """Return a member.

        Raises:
            InputError: there is none of that number.
        """
        with self._database.read() as connection:
            return members.by_number(connection, number)

    def member_by_key(self, fingerprint: str) -> Member | None:
        """Return the member with the public key of that fingerprint, or None."""
        with self._database.read() as connection:
            return members.by_key(connection, fingerprint)

    def revoke(self, number: int, *, reason: str = "", refuse_asked: bool = False) -> tuple[Member, list[Request]]:
        """Revoke the key of a member, for ever: nothing that it signs is taken from now on.

        What it asked before stands, as it was its owner's word as far as anybody knew; `refuse_asked` refuses, in the
        same transaction, what nobody has begun with. What is under way goes on: its device may be at work.

        Returns:
            The member, and the requests that were refused.

        Raises:
            InputError: there is no such member.
        """
        with self._writing() as writing:
            member = members.revoke(writing, number, reason)
            why = f"the key of {member.name}, which asked, was revoked"
            return member, requests.refuse_asked(writing, member.fingerprint, why) if refuse_asked else []

    def rotate(self, number: int, key: bytes, *, old: str = "") -> Member:
        """Replace the key of a member; nothing that the old one signs is taken from then on.

        Its number, what it contributed and what it asked stay. On the operator's word a revoked member becomes
        active again, or is withdrawn if its data was to be forgotten meanwhile.

        Args:
            number: of the member.
            key: the new public key, DER.
            old: fingerprint of the key on whose word this is done; "": it is the operator's.

        Raises:
            InputError: there is no such member, the new key is or was somebody's, or the old one is the member's no
                more or revoked.
        """
        with self._writing() as writing:
            return members.rotate(writing, number, key, old)

    def remove(self, number: int) -> Member:
        """Withdraw a device that never contributed anything.

        Raises:
            InputError: there is no such member, or it is no device.
            StateError: it contributed to a step.
        """
        with self._writing() as writing:
            return members.remove(writing, number)

    def replaced_keys(self) -> dict[str, tuple[int, bytes]]:
        """Return the keys (DER) that were replaced, by fingerprint, each with the number of its member."""
        with self._database.read() as connection:
            return members.replaced(connection)

    def revocations(self) -> dict[str, float]:
        """Return the fingerprints of the keys that are revoked or replaced, and since when each is (Unix seconds)."""
        with self._database.read() as connection:
            return members.revocations(connection)

    # Asks

    def take(self, new: NewRequest) -> tuple[Request, bool]:
        """Store a request: it and True, or the one with its id that is there and False.

        Raises:
            StateError: the key that asked is revoked.
            InputError: its subject is no member, or its id is not the SHA-256 of its bytes.
        """
        with self._database.read() as connection:
            known = requests.find(connection, new.id)
        if known is not None:  # repeated asks take no turn of writers
            return known, False
        with self._writing() as writing:
            return requests.take(writing, new)

    def turn_away(self, reason: str, *, member: int | None = None, facts: Mapping[str, Any] | None = None) -> None:
        """Note in the log that an ask was refused; of many, the first are noted and the others counted.

        Raises:
            InputError: the facts are no JSON.
        """
        self._log_all(self._refusals.add(reason, member, dict(facts or {}), now=self._clock()))

    def request(self, id: str) -> Request:  # noqa: A002
        """Return a request.

        Raises:
            InputError: there is none of that id.
        """
        with self._database.read() as connection:
            return requests.by_id(connection, id)

    def requests(self, *, status: str | None = None, subject: int | None = None) -> list[Request]:
        """Return the requests in that state and of that subject, oldest first."""
        with self._database.read() as connection:
            return requests.all_of(connection, None if status is None else (status,), subject)

    def request_line(self, id: str) -> RequestLine:  # noqa: A002
        """Return a request without its bytes.

        Raises:
            InputError: there is none of that id.
        """
        with self._database.read() as connection:
            found = requests.lines(connection, id, None, None)
        if not found:
            raise InputError(f"there is no request {id} in this ledger")
        return found[0]

    def request_lines(self, *, statuses: Collection[str] | None = None, newest: int | None = None) -> list[RequestLine]:
        """Return the requests in these states without their bytes, oldest first; only the `newest` ones, if given."""
        with self._database.read() as connection:
            return requests.lines(connection, None, statuses, newest)

    def requests_by_status(self) -> dict[str, int]:
        """Return how many requests are in each state; none is read for it."""
        with self._database.read() as connection:
            found = requests.count_by_status(connection)
        return {status: found.get(status, 0) for status in STATES}

    def in_progress(self) -> Request | None:
        """Return the request that is recovering, else the oldest that is forgetting; None: there is neither."""
        with self._database.read() as connection:
            found = requests.all_of(connection, UNDER_WAY, None)
            return min(found, key=lambda request: request.status != "recovering", default=None)

    def next_asked(self) -> Request | None:
        """Return the oldest request with which no one has begun."""
        with self._database.read() as connection:
            return next(iter(requests.all_of(connection, ("asked",), None)), None)

    def asked_since(self, fingerprint: str, since: float, *, statuses: Collection[str] = STATES) -> int:
        """Return how many requests signed with that key the ledger took at `since` (Unix seconds) or later.

        Args:
            fingerprint: of the key.
            since: Unix seconds.
            statuses: only those that are in one of these states now.
        """
        with self._database.read() as connection:
            return requests.count_since(connection, fingerprint, since, statuses)

    # Steps

    def advance(
        self,
        id: str,  # noqa: A002
        *,
        of: str,
        to: str,
        kind: str,
        facts: Mapping[str, Any] | None = None,
        step: Step | None = None,
        method: str | None = None,
        reason: str | None = None,
        model_before: str | None = None,
        model_after: str | None = None,
        receipt: bytes | None = None,
        withdraw: bool = False,
    ) -> Request:
        """Move a request from state `of` to state `to`, with all that belongs to that, or change nothing.

        Args:
            id: of the request.
            of: the state in which the caller saw it.
            to: the state after; a request under way may stay where it is.
            kind: of the event.
            facts: further contents of the event.
            step: the finished step by which it got there.
            method: what forgets, from now on.
            reason: why it is refused or failed.
            model_before: SHA-256 of the model that contained the data.
            model_after: SHA-256 of the one that forgot.
            receipt: the signed receipt.
            withdraw: the subject is withdrawn, for ever.

        Raises:
            StateError: it is not in state `of`, `to` cannot follow, another request is recovering, or the step cannot.
            InputError: there is no such request, or something cannot be written.
        """
        changes = {
            "method": method,
            "reason": reason,
            "model_before": model_before,
            "model_after": model_after,
            "receipt": receipt,
        }
        with self._writing() as writing:
            return requests.advance(
                writing, id, of=of, to=to, kind=kind, facts=facts, step=step, changes=changes, withdraw=withdraw
            )

    def add_step(self, step: Step, *, kind: str = "round") -> None:
        """Store a finished step.

        Raises:
            StateError: it does not follow the last one, or trains on what a withdrawn member sent.
            InputError: its phase, request or a member is unknown, a member is in it twice, or a number is not finite.
        """
        with self._writing() as writing:
            steps.add(writing, step)
            writing.log(kind, request=step.request, facts=steps.facts_of(step), rows=[("steps", step.number)])

    def last_step(self) -> Step | None:
        """Return the last step, which says where the federation is; None before the first."""
        with self._database.read() as connection:
            return steps.last_of(connection)

    def steps(
        self, *, phase: str | None = None, request: str | None = None, after: int = 0, limit: int | None = None
    ) -> list[Step]:
        """Return the steps of that phase and for that request, after the one numbered `after`; the oldest `limit`."""
        with self._database.read() as connection:
            return steps.find(connection, phase, request, after, limit)

    def newest_steps(self, number: int) -> list[Step]:
        """Return that many of the last steps, the oldest of them first."""
        with self._database.read() as connection:
            return steps.newest(connection, number)

    def phase_totals(self) -> dict[str, PhaseTotals]:
        """Return the sums over the steps of each phase that there was; no step is read for it."""
        with self._database.read() as connection:
            return totals.phases(connection)

    def member_totals(self) -> dict[int, MemberTotals]:
        """Return what each member that contributed has contributed, by number; no step is read for it."""
        with self._database.read() as connection:
            return totals.members(connection)

    def most_contributed(self, member: int) -> int | None:
        """Return the most samples that member contributed to one step, None if it contributed to none.

        No step is read for it, so it takes no longer after years.
        """
        with self._database.read() as connection:
            return steps.most_of(connection, member)

    # Audit

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
