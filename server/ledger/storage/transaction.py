"""One transaction that writes: it holds the head of the chain, and each event that it logs moves it on."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from fedquit.errors import FedquitError, InputError
from fedquit.server.ledger.audit_log.hash_chain import canonical, event_digest, head_message
from fedquit.server.ledger.audit_log.row_digests import row_digest
from fedquit.server.ledger.audit_log.seal import Seal
from fedquit.server.ledger.rows import Event
from fedquit.server.ledger.storage.tables import events, head

LARGEST_FACTS = 65_536  # bytes

Touched = tuple[str, str | int]


class Writing:
    """A transaction that alone may write.

    Attributes:
        connection: what it writes with.
        now: when it began, Unix seconds.

    Raises:
        FedquitError: the head is not sealed by `seal`, so that what it would go on from cannot be trusted.
    """

    def __init__(self, connection: Connection, seal: Seal | None, now: float) -> None:
        self.connection = connection
        self.now = now
        self._seal = seal
        at = connection.execute(select(head).where(head.c.id == 1).with_for_update()).one_or_none()
        if at is None:
            raise FedquitError("the ledger has no head: it was altered; see 'fedquit ledger check'")
        self._number, self._digest = at.number, at.digest
        self._check_seal(at)

    def log(
        self,
        kind: str,
        *,
        request: str | None = None,
        member: int | None = None,
        facts: Mapping[str, Any] | None = None,
        rows: Iterable[Touched] = (),
        seal: Seal | None = None,
    ) -> Event:
        """Add an event; `rows` are those that this transaction wrote, and their digests go into its facts.

        From `seal` on, if it is given, that one seals the log.

        Raises:
            InputError: the facts are no JSON, too long, or have a member "rows" of their own.
        """
        logged = dict(facts or {})
        if "rows" in logged:
            raise InputError(f"the facts of event '{kind}' may not have a member 'rows': the ledger writes it")
        digests = {f"{table}/{key}": row_digest(self.connection, table, key) for table, key in rows}
        text = canonical({**logged, "rows": digests} if digests else logged)
        if len(text) > LARGEST_FACTS:
            raise InputError(f"the facts of event '{kind}' have {len(text)} bytes; at most {LARGEST_FACTS}")
        fields: dict[str, Any] = {
            "number": self._number + 1,
            "at": float(self.now),
            "kind": kind,
            "request": request,
            "member": member,
            "facts": json.loads(text),
            "previous": self._digest,
        }
        event = Event(**fields, digest=event_digest(fields))
        self.connection.execute(insert(events).values({**asdict(event), "facts": text.decode()}))
        self._seal = seal or self._seal
        self._move_head(event)
        return event

    def _move_head(self, event: Event) -> None:
        """Make `event` the last one, and seal that."""
        self._number, self._digest = event.number, event.digest
        seal = self._seal.sign(head_message(event.number, event.digest)) if self._seal else None
        self.connection.execute(update(head).values(number=event.number, digest=event.digest, seal=seal))

    def _check_seal(self, at: Row[Any]) -> None:
        """Refuse to go on from a head that this seal does not vouch for."""
        if self._seal is None:
            if at.seal is not None:
                raise FedquitError("this ledger is sealed: open it with the key that seals it (receipts.key)")
        elif at.number > 0 and at.seal is None:
            raise FedquitError("this ledger is not sealed, yet a key was given; 'fedquit ledger seal' seals it")
        elif at.number > 0 and not self._seal.verify(head_message(at.number, at.digest), at.seal):
            raise FedquitError("the ledger's seal is not that of this key; see 'fedquit ledger check'")
