"""The members: who is enrolled, who has withdrawn, and whose key is revoked or replaced.

Withdrawn: all of its data was asked to be forgotten, so it trains no more; its key still asks how that fares. Revoked:
nothing that the key signs counts any more. A key may be replaced: the member stays who it is, and what the old key
signs from then on counts as little as if it were revoked. A key that counts no more never counts again.
"""

import hashlib

from sqlalchemy import Connection, Row, func, insert, select, update

from fedquit.errors import InputError, StateError, unknown
from fedquit.server.ledger.audit_log.row_digests import read_facts
from fedquit.server.ledger.rows import Member
from fedquit.server.ledger.storage.tables import contributions, events, members
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
    _check_not_replaced(writing.connection, fingerprint_of(key))
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


def rotate(writing: Writing, number: int, key: bytes, old: str = "") -> Member:
    """Replace the key of a member; one that is revoked becomes active, or withdrawn if its data was to be forgotten.

    The same key again changes nothing.

    Args:
        writing: the transaction.
        number: of the member.
        key: the new public key, DER.
        old: fingerprint of the key on whose word this is done, beside the new one's; "": on the operator's word.

    Raises:
        InputError: there is no such member, the new key is or was somebody's, or the old one is the member's no more
            or revoked: what it says counts for nothing.
    """
    member, new = by_number(writing.connection, number), fingerprint_of(key)
    if old:
        _check_counts(member, old)
    if new == member.fingerprint and member.status != "revoked":
        return member
    other = by_key(writing.connection, new)
    if other is not None:
        raise InputError(f"the new key is that of member {other.number} '{other.name}'; make another")
    _check_not_replaced(writing.connection, new)
    status = _before_revocation(writing.connection, member) if member.status == "revoked" else member.status
    values = {"key": bytes(key), "fingerprint": new, "status": status}
    writing.connection.execute(update(members).where(members.c.number == member.number).values(values))
    facts = {
        "name": member.name,
        "fingerprint": new,
        "replaced": member.fingerprint,
        "replaced_key": member.key.hex(),
        "was": member.status,
        "by": "both keys" if old else "the operator",
    }
    writing.log("key-replaced", member=member.number, facts=facts, rows=[("members", member.number)])
    return by_number(writing.connection, number)


def remove(writing: Writing, number: int) -> Member:
    """Withdraw a device that never contributed anything, so that nothing waits for it.

    Raises:
        InputError: there is no such member, or it is no device.
        StateError: it contributed to a step: what it gave must be forgotten instead.
    """
    member = by_number(writing.connection, number)
    if member.role != "device":
        raise InputError(f"'{member.name}' is an operator: fedquit member revoke takes its key")
    gave = writing.connection.execute(
        select(contributions.c.step).where(contributions.c.member == number).limit(1)
    ).one_or_none()
    if gave is not None:
        raise StateError(
            f"'{member.name}' contributed to step {gave.step}, and the model contains that: have it forgotten, as an "
            f"operator with fedquit forget KIT --device {member.fingerprint}"
        )
    if member.status != "active":
        return member
    writing.connection.execute(update(members).where(members.c.number == number).values(status="withdrawn"))
    facts = {"name": member.name, "fingerprint": member.fingerprint}
    writing.log("removed", member=number, facts=facts, rows=[("members", number)])
    return by_number(writing.connection, number)


def revocations(connection: Connection) -> dict[str, float]:
    """Return the fingerprints of the keys that are revoked or replaced, and since when each is (Unix seconds)."""
    kinds = {"revoked": "fingerprint", "key-replaced": "replaced"}
    query = select(events.c.kind, events.c.at, events.c.facts).where(events.c.kind.in_(kinds)).order_by(events.c.number)
    found: dict[str, float] = {}
    for row in connection.execute(query):  # one that was stolen, revoked and then replaced is so since it was revoked
        found.setdefault(str(read_facts(row.facts).get(kinds[row.kind], "")), float(row.at))
    return found


def replaced(connection: Connection) -> dict[str, tuple[int, bytes]]:
    """Return the keys (DER) that were replaced, by fingerprint, each with the number of its member."""
    query = select(events.c.member, events.c.facts).where(events.c.kind == "key-replaced").order_by(events.c.number)
    found = {}
    for row in connection.execute(query):
        facts = read_facts(row.facts)
        found[str(facts.get("replaced", ""))] = (row.member, bytes.fromhex(facts.get("replaced_key", "")))
    return found


def _check_counts(member: Member, old: str) -> None:
    """Refuse what a key says that is not the member's, or is revoked; between a look and this either may have come."""
    if member.fingerprint != old:
        raise InputError(f"the key of '{member.name}' was replaced meanwhile, and the old one counts for nothing")
    if member.status == "revoked":
        raise InputError(f"the key of '{member.name}' is revoked, so what it says counts for nothing")


def _check_not_replaced(connection: Connection, fingerprint: str) -> None:
    """Refuse a key that another took the place of."""
    if fingerprint in replaced(connection):
        raise InputError(f"the key {fingerprint[:16]}… was replaced by another, and never counts again; make a new one")


def _before_revocation(connection: Connection, member: Member) -> str:
    """Return the status of a member but for its key: withdrawn for ever, also if that came after the revocation."""
    query = select(events.c.kind, events.c.facts).where(events.c.member == member.number)
    for row in connection.execute(query):
        facts = read_facts(row.facts)
        was = row.kind in ("revoked", "key-replaced") and facts.get("was") == "withdrawn"
        if was or row.kind == "removed" or facts.get("withdrawn") == member.number:
            return "withdrawn"
    return "active"


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
