"""The requests: taken once, and moved from state to state by compare-and-set."""

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from fedquit.errors import InputError, StateError
from fedquit.server.ledger import steps
from fedquit.server.ledger.members import by_key, by_number
from fedquit.server.ledger.request_states import check_transition
from fedquit.server.ledger.rows import NewRequest, Request, RequestLine, Step
from fedquit.server.ledger.storage.tables import members, requests
from fedquit.server.ledger.storage.transaction import Touched, Writing


def take(writing: Writing, new: NewRequest) -> tuple[Request, bool]:
    """Store a request as asked, unless the one with this id is there.

    Raises:
        StateError: the key that asked was revoked meanwhile.
        InputError: its subject is no member, or its id is not the SHA-256 of its bytes.
    """
    known = find(writing.connection, new.id)
    if known is not None:
        return known, False
    if hashlib.sha256(new.ask).hexdigest() != new.id:
        raise InputError(f"{new.id} is not the SHA-256 of what was asked")
    by_number(writing.connection, new.subject)
    asker = by_key(writing.connection, new.asked_by)
    if asker is not None and asker.status == "revoked":
        raise StateError(f"the key of {asker.name}, which asked, is revoked")
    place = writing.connection.execute(select(func.max(requests.c.place))).scalar() or 0
    writing.connection.execute(insert(requests).values({**_values(new, writing.now), "place": place + 1}))
    facts = {"asked_by": new.asked_by, "granularity": new.granularity, "samples_count": int(new.samples_count)}
    writing.log("asked", request=new.id, member=int(new.subject), facts=facts, rows=[("requests", new.id)])
    return by_id(writing.connection, new.id), True


def advance(
    writing: Writing,
    id: str,  # noqa: A002 - what everyone calls it
    *,
    of: str,
    to: str,
    kind: str,
    facts: Mapping[str, Any] | None,
    step: Step | None,
    changes: Mapping[str, Any],
    withdraw: bool,
) -> Request:
    """Move a request from state `of` to state `to`, with all that belongs to that.

    `changes` names further columns and what is to stand there; None leaves one as it is.

    Raises:
        StateError: it is not in state `of`, `to` cannot follow, another request is recovering, or its step cannot.
        InputError: there is no such request.
    """
    now = by_id(writing.connection, id)
    if now.status != of:
        raise StateError(f"request {id[:12]} is {now.status}, not {of}: it cannot go to {to}")
    check_transition(of, to, adds_receipt=now.receipt is None and changes.get("receipt") is not None)
    if to == "recovering":
        _check_alone(writing.connection, id)
    made = {name: value for name, value in changes.items() if value is not None}
    rows: list[Touched] = [("requests", id)]
    logged: dict[str, Any] = {**(facts or {}), "of": of, "to": to, **made}
    if "receipt" in made:
        logged["receipt"] = hashlib.sha256(made["receipt"]).hexdigest()
    writing.connection.execute(
        update(requests).where(requests.c.id == id).values(**made, status=to, changed_at=float(writing.now))
    )
    if withdraw:
        active = (members.c.number == now.subject) & (members.c.status == "active")  # a revoked one stays revoked
        writing.connection.execute(update(members).where(active).values(status="withdrawn"))
        rows.append(("members", now.subject))
        logged["withdrawn"] = now.subject
    if step is not None:
        if step.request != id:
            raise InputError(f"step {step.number} is for request {step.request}, not for {id}")
        steps.add(writing, step)
        rows.append(("steps", step.number))
        logged |= steps.facts_of(step)
    writing.log(kind, request=id, member=now.subject, facts=logged, rows=rows)
    return by_id(writing.connection, id)


def refuse_asked(writing: Writing, fingerprint: str, reason: str) -> list[Request]:
    """Refuse what a key has asked and nobody has begun with, and return those requests."""
    asked = [one for one in all_of(writing.connection, ("asked",), None) if one.asked_by == fingerprint]
    how: dict[str, Any] = {"facts": None, "step": None, "changes": {"reason": reason}, "withdraw": False}
    return [advance(writing, one.id, of="asked", to="refused", kind="refused", **how) for one in asked]


def find(connection: Connection, id: str) -> Request | None:  # noqa: A002
    """Return a request, or None."""
    row = connection.execute(select(requests).where(requests.c.id == id)).one_or_none()
    return None if row is None else _request(row)


def by_id(connection: Connection, id: str) -> Request:  # noqa: A002
    """Return a request.

    Raises:
        InputError: there is none of that id.
    """
    found = find(connection, id)
    if found is None:
        raise InputError(f"there is no request {id} in this ledger")
    return found


def all_of(connection: Connection, statuses: tuple[str, ...] | None, subject: int | None) -> list[Request]:
    """Return the requests in these states and of that subject, oldest first."""
    query = select(requests).order_by(requests.c.place)
    if statuses is not None:
        query = query.where(requests.c.status.in_(statuses))
    if subject is not None:
        query = query.where(requests.c.subject == int(subject))
    return [_request(row) for row in connection.execute(query)]


def lines(
    connection: Connection,
    id: str | None = None,  # noqa: A002
    statuses: Collection[str] | None = None,
    newest: int | None = None,
    subject: int | None = None,
) -> list[RequestLine]:
    """Return the requests of that id, in these states, of that subject, oldest first; at most the `newest` ones."""
    left_out = ("place", "ask", "signature", "receipt")
    columns = [column for column in requests.c if column.name not in left_out]
    query = select(*columns, requests.c.receipt.is_not(None).label("has_receipt"))
    query = query.order_by(requests.c.place.desc()).limit(newest)
    if id is not None:
        query = query.where(requests.c.id == id)
    if statuses is not None:
        query = query.where(requests.c.status.in_(statuses))
    if subject is not None:
        query = query.where(requests.c.subject == int(subject))
    found = [dict(row._mapping) for row in connection.execute(query)]
    for fields in found:
        fields |= {"classes": tuple(json.loads(fields["classes"])), "has_receipt": bool(fields["has_receipt"])}
    return [RequestLine(**fields) for fields in reversed(found)]


def count_by_status(connection: Connection) -> dict[str, int]:
    """Return how many requests are in each state; a state in which there is none is left out."""
    query = select(requests.c.status, func.count()).group_by(requests.c.status)
    return {status: int(count) for status, count in connection.execute(query)}


def count_since(connection: Connection, fingerprint: str, since: float, statuses: Collection[str]) -> int:
    """Return how many requests of that key were taken at `since` or later and are in one of these states."""
    query = select(func.count()).select_from(requests)
    query = query.where(requests.c.asked_by == fingerprint, requests.c.asked_at >= float(since))
    query = query.where(requests.c.status.in_(statuses))
    return int(connection.execute(query).scalar_one())


def _check_alone(connection: Connection, id: str) -> None:  # noqa: A002
    """Refuse to have a request recover while another does."""
    others = [other for other in all_of(connection, ("recovering",), None) if other.id != id]
    if others:
        raise StateError(f"request {id[:12]} must wait: request {others[0].id[:12]} is {others[0].status}")


def _values(new: NewRequest, now: float) -> dict[str, Any]:
    """Return what is stored of a request that is taken now."""
    return {
        "id": new.id,
        "subject": int(new.subject),
        "asked_by": new.asked_by,
        "granularity": new.granularity,
        "classes": json.dumps([int(label) for label in new.classes]),
        "samples_count": int(new.samples_count),
        "samples_digest": new.samples_digest,
        "status": "asked",
        "asked_at": float(now),
        "deadline": float(new.deadline),
        "method": new.method,
        "reason": "",
        "model_before": "",
        "model_after": "",
        "receipt": None,
        "ask": bytes(new.ask),
        "signature": bytes(new.signature),
        "changed_at": float(now),
    }


def _request(row: Row[Any]) -> Request:
    """Read a row."""
    fields = {name: value for name, value in row._mapping.items() if name != "place"}
    return Request(**{**fields, "classes": tuple(json.loads(fields["classes"]))})
