"""The members: who is enrolled, who has withdrawn, and whose key is revoked.

Withdrawn: all of its data was asked to be forgotten, so it trains no more; its key still asks how that fares. Revoked:
nothing that the key signs counts any more. Both are for ever; a member whose key is lost becomes a new member.
"""

import hashlib

from sqlalchemy import Connection, Row, func, insert, select, update

from fedquit.errors import InputError, unknown
from fedquit.server.ledger.audit_log.row_digests import read_facts
from fedquit.server.ledger.rows import Member
from fedquit.server.ledger.storage.tables import events, members
from fedquit.server.ledger.storage.transaction import Writing

ROLES = ("device", "operator")


def fingerprint_of(key: bytes) -> str:
    """Return the name of a public key: the hex SHA-256 of its DER.

    >>> fingerprint_of(b"")[:16]
    'e3b0c44298fc1c14'
    """
    return hashlib.sha256(key).hexdigest()


def enrol(writing: Writing, name: str, key: bytes, role: str) -> Member:
    """Add a member; a key that is known is the member it was, also a withdrawn or revoked one.

    Raises:
        InputError: the role is unknown, or there is no name or key.
    """
    if role not in ROLES:
        raise unknown("role", role, ROLES)
    if not name or not key:
        raise InputError("a member needs a name and a public key")
    known = by_key(writing.connection, fingerprint_of(key))
    if known is not None:
        return known
    last = writing.connection.execute(select(func.max(members.c.number))).scalar()
    new = Member(
        number=0 if last is None else last + 1,
        name=name,
        role=role,
        fingerprint=fingerprint_of(key),
        key=bytes(key),
        status="active",
        enrolled_at=float(writing.now),
    )
    writing.connection.execute(insert(members).values(_values(new)))
    facts = {"name": name, "role": role, "fingerprint": new.fingerprint}
    writing.log("enrolled", member=new.number, facts=facts, rows=[("members", new.number)])
    return new


def revoke(writing: Writing, number: int, reason: str) -> Member:
    """Revoke the key of a member; one that is revoked stays so, and nothing is written.

    Raises:
        InputError: there is no such member.
    """
    member = by_number(writing.connection, number)
    if member.status == "revoked":
        return member
    writing.connection.execute(update(members).where(members.c.number == member.number).values(status="revoked"))
    facts = {"name": member.name, "fingerprint": member.fingerprint, "was": member.status, "reason": reason}
    writing.log("revoked", member=member.number, facts=facts, rows=[("members", member.number)])
    return by_number(writing.connection, number)


def revocations(connection: Connection) -> dict[str, float]:
    """Return the fingerprints of the keys that are revoked, and when each was (Unix seconds)."""
    query = select(events.c.at, events.c.facts).where(events.c.kind == "revoked").order_by(events.c.number)
    return {str(read_facts(row.facts).get("fingerprint", "")): float(row.at) for row in connection.execute(query)}


def all_of(connection: Connection) -> list[Member]:
    """Return all members, in the order of their numbers."""
    return [_member(row) for row in connection.execute(select(members).order_by(members.c.number))]


def by_number(connection: Connection, number: int) -> Member:
    """Return a member.

    Raises:
        InputError: there is none of that number.
    """
    row = connection.execute(select(members).where(members.c.number == int(number))).one_or_none()
    if row is None:
        raise InputError(f"there is no member {number} in this ledger")
    return _member(row)


def by_key(connection: Connection, fingerprint: str) -> Member | None:
    """Return the member with that key, or None."""
    row = connection.execute(select(members).where(members.c.fingerprint == fingerprint)).one_or_none()
    return None if row is None else _member(row)


def _member(row: Row[tuple[object, ...]]) -> Member:
    """Read a row."""
    return Member(**row._mapping)


def _values(member: Member) -> dict[str, object]:
    """Return what is stored of a member."""
    return {name: getattr(member, name) for name in Member.__slots__}
