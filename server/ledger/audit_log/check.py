"""Is the audit log whole, and do the tables still say what it says?"""

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, text

from fedquit.errors import InputError
from fedquit.server.ledger import totals
from fedquit.server.ledger.audit_log.hash_chain import START, canonical, digest_of, event_digest, head_message
from fedquit.server.ledger.audit_log.row_digests import KEYS, read_facts, rows_of, stream
from fedquit.server.ledger.audit_log.seal import Seal

ONE = {"members": "member", "requests": "request", "steps": "step"}

Vouched = dict[str, tuple[str, int]]  # "table/key" -> digest, and the event that says so last


def check(connection: Connection, seal: Seal | None, noted: tuple[int, str] | None = None) -> list[str]:
    """Return what is wrong, a line each; nothing if all is well.

    `noted` are number and digest of an event as seen earlier: they show a log that was put back or rewritten.
    """
    wrong: list[str] = []
    vouched: Vouched = {}
    number, digest, seen = 0, START, ""
    for event in stream(connection, "SELECT * FROM events ORDER BY number"):
        fields = dict(event._mapping)
        facts = read_facts(fields["facts"])
        wrong += check_event(fields, facts, number, digest)
        vouched |= vouched_by(fields, facts)
        number, digest = fields["number"], fields["digest"]
        if noted is not None and noted[0] == number:
            seen = digest
    if noted is not None and noted[0] > 0 and seen != noted[1]:
        wrong.append(f"event {noted[0]} is not the one that was noted: the log was restored from a copy or rewritten")
    wrong += check_head(connection, seal, number, digest)
    for table in KEYS:
        wrong += _check_table(connection, table, vouched)
    wrong += _check_orphans(connection)
    return wrong or [*totals.mismatches(connection)]  # of steps that are not as they were there are no right sums


def vouched_by(fields: Mapping[str, Any], facts: Mapping[str, Any]) -> Vouched:
    """Return the rows that an event names, with their digests."""
    rows = facts.get("rows")
    return {str(row): (said, fields["number"]) for row, said in rows.items()} if isinstance(rows, dict) else {}


def check_event(fields: Mapping[str, Any], facts: dict[str, Any], number: int, digest: str) -> Iterator[str]:
    """Say what is wrong with an event that should follow the one with that number and digest."""
    this = fields["number"]
    if this != number + 1:
        gone = f"event {number + 1} is" if this == number + 2 else f"events {number + 1} to {this - 1} are"
        yield f"{gone} missing"
    elif fields["previous"] != digest:
        yield f"event {this} does not follow event {number}: it names another digest as the one before"
    try:
        sound = (
            canonical(facts).decode() == fields["facts"]
            and event_digest({**fields, "facts": facts}) == fields["digest"]
        )
    except InputError:
        sound = False
    if not sound:
        yield f"event {this} was altered: its digest is not that of its content"


def check_head(connection: Connection, seal: Seal | None, number: int, digest: str) -> Iterator[str]:
    """Say what is wrong with the end of the log, whose last event has that number and digest."""
    heads = connection.execute(text("SELECT * FROM head")).all()
    if len(heads) != 1:
        yield f"there are {len(heads)} heads of the log; there should be one"
        return
    head = heads[0]
    if not isinstance(head.number, int) or not isinstance(head.seal, bytes | None):
        yield "the head was altered"
        return
    if head.number > number:
        yield f"the log ends at event {number}, but its head is event {head.number}: its tail was cut off"
    elif head.number < number:
        yield f"the log ends at event {number}, but its head is event {head.number}: events were added past it"
    elif head.digest != digest:
        yield f"the head names another digest than event {number}, the last one, has"
    if seal is None or (head.number == 0 and head.seal is None):
        return
    if head.seal is None:
        yield "the head is not sealed"
    elif not seal.verify(head_message(head.number, head.digest), head.seal):
        yield "the seal of the head is wrong: another key made it, or the head was altered"


def _check_table(connection: Connection, table: str, vouched: Vouched) -> Iterator[str]:
    """Say which rows of a table are not what the log says last of them."""
    missing = {row: said for row, said in vouched.items() if row.startswith(f"{table}/")}
    for found in rows_of(connection, table):
        key = found[KEYS[table]]
        said = missing.pop(f"{table}/{key}", None)
        if said is None:
            yield f"{ONE[table]} {key} is not in the log: it was inserted"
        elif not agrees(found, said[0]):
            yield f"{ONE[table]} {key} was altered: it is not what event {said[1]} says"
    for row, (_, number) in missing.items():
        yield f"{ONE[table]} {row.partition('/')[2]} was removed: event {number} says that it is there"


def agrees(found: dict[str, Any], digest: str) -> bool:
    """Say whether a row has that digest."""
    try:
        return digest_of(found) == digest
    except InputError:
        return False


def _check_orphans(connection: Connection) -> Iterator[str]:
    """Name contributions to steps that are not there: no digest covers them."""
    query = "SELECT step, member FROM contributions WHERE step NOT IN (SELECT number FROM steps) ORDER BY step, member"
    for row in connection.execute(text(query)):
        yield f"the contribution of member {row.member} to step {row.step} was inserted: there is no such step"
