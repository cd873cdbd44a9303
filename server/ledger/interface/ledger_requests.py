"""The requests in a ledger."""

from collections.abc import Collection, Mapping
from typing import Any

from fedquit.errors import InputError
from fedquit.server.ledger import requests
from fedquit.server.ledger.interface.open_ledger import OpenLedger
from fedquit.server.ledger.request_states import STATES, UNDER_WAY
from fedquit.server.ledger.rows import NewRequest, Request, RequestLine, Step


class LedgerRequests(OpenLedger):
    """Who asked to be forgotten, and how far that is."""

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
            found = requests.lines(connection, id)
        if not found:
            raise InputError(f"there is no request {id} in this ledger")
        return found[0]

    def request_lines(
        self, *, statuses: Collection[str] | None = None, subject: int | None = None, newest: int | None = None
    ) -> list[RequestLine]:
        """Return the requests in these states and of that subject without their bytes, oldest first.

        Args:
            statuses: only those in one of these states.
            subject: only those about that member.
            newest: at most this many, the newest.
        """
        with self._database.read() as connection:
            return requests.lines(connection, None, statuses, newest, subject)

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
