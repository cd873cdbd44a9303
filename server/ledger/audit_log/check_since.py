"""Is what came after a mark sound, and is the log still the one that was checked up to there?

Read are the event of the mark, the events after it, the rows that those name, and how many rows there are. So it takes
as long as there is news, and says nothing of rows before the mark that no later event names.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, text

from fedquit.server.ledger.audit_log.check import (
    ONE,
    Vouched,
    agrees,
    check_event,
    check_head,
    vouched_by,
)
from fedquit.server.ledger.audit_log.mark import Mark, counts
from fedquit.server.ledger.audit_log.row_digests import KEYS, one_row, read_facts, stream
from fedquit.server.ledger.audit_log.seal import Seal

PLACES = {"members": "number", "requests": "place", "steps": "number"}
FIRST = {"members": 0, "requests": 1, "steps": 1}
"""The first number of a row; rows are numbered without a gap."""


def check_since(connection: Connection, seal: Seal | None, mark: Mark) -> list[str]:
    """Return what is wrong since `mark`, a line each; nothing if all is well."""
    found = _check_mark(connection, seal, mark)
    if found:
        return [found]
    wrong: list[str] = []
    vouched: Vouched = {}
    number, digest = mark.number, mark.digest
    query = "SELECT * FROM events WHERE number > :number ORDER BY number"
    for event in stream(connection, query, {"number": mark.number}):
        fields = dict(event._mapping)
        facts = read_facts(fields["facts"])
        wrong += check_event(fields, facts, number, digest)
        vouched |= vouched_by(fields, facts)
        number, digest = fields["number"], fields["digest"]
    wrong += check_head(connection, seal, number, digest)
    return [*wrong, *_check_rows(connection, mark, vouched)]


def _check_mark(connection: Connection, seal: Seal | None, mark: Mark) -> str:
    """Say why a check cannot go on from a mark; "": it can."""
    if seal is not None and not mark.is_sealed_by(seal):
        return f"the mark at event {mark.number} was altered: its seal is not that of the server"
    query = text("SELECT digest FROM events WHERE number = :number")
    digest = connection.execute(query, {"number": mark.number}).scalar()
    if mark.number > 0 and digest != mark.digest:
        return (
            f"event {mark.number} is not the one that was checked: the log was restored from a copy or rewritten; "
            "check everything with --full"
        )
    return ""


def _check_rows(connection: Connection, mark: Mark, vouched: Vouched) -> Iterator[str]:
    """Say which rows that the new events name are not as they say, and where rows were added or removed."""
    should = dict(mark.rows)
    for row, (digest, number) in vouched.items():
        table, _, key = row.partition("/")
        if table not in KEYS:
            continue
        found = one_row(connection, table, key)
        if found is None:
            yield f"{ONE[table]} {key} was removed: event {number} says that it is there"
            continue
        if not agrees(found, digest):
            yield f"{ONE[table]} {key} was altered: it is not what event {number} says"
        if _is_new(table, found, mark):
            should[table] += 1
            should["contributions"] += len(found.get("contributions", ()))
    for table, count in counts(connection).items():
        if count != should[table]:
            yield f"there are {count} {table}, and the log says {should[table]}: rows were inserted or removed"


def _is_new(table: str, row: Mapping[str, Any], mark: Mark) -> bool:
    """Say whether a row came after the mark."""
    place = row[PLACES[table]]
    return isinstance(place, int) and place >= mark.rows[table] + FIRST[table]
