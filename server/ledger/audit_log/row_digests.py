"""What the rows of the ledger say, as JSON, and the digest by which the audit log vouches for each of them."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, Row, text

from fedquit.server.ledger.audit_log.hash_chain import digest_of

KEYS = {"members": "number", "requests": "id", "steps": "number"}


def content(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with its bytes as hex, marked as such: no text is taken for bytes.

    >>> content({"id": "ab", "ask": bytes([1, 255]), "receipt": None})
    {'id': 'ab', 'ask': {'hex': '01ff'}, 'receipt': None}
    """
    return {name: {"hex": value.hex()} if isinstance(value, bytes) else value for name, value in row.items()}


def read_facts(text: Any) -> dict[str, Any]:
    """Return the facts of an event, also if someone made them unreadable.

    >>> read_facts('{"count":2}'), read_facts("{")
    ({'count': 2}, {'unreadable': '{'})
    """
    try:
        facts = json.loads(text)
    except (ValueError, TypeError):
        facts = None
    return facts if isinstance(facts, dict) else {"unreadable": str(text)}


def stream(connection: Connection, query: str, values: Mapping[str, Any] | None = None) -> Iterator[Row[Any]]:
    """Yield the rows of a query, a few at a time: a log may be longer than the memory."""
    yield from connection.execute(text(query), dict(values or {}), execution_options={"yield_per": 1000})


def rows_of(connection: Connection, table: str) -> Iterator[dict[str, Any]]:
    """Yield the content of each row of `table`; a step's with its contributions."""
    given = _contributions(connection) if table == "steps" else iter(())
    ahead = next(given, None)
    for row in stream(connection, f"SELECT * FROM {table} ORDER BY {KEYS[table]}"):  # noqa: S608 - of KEYS
        found = content(row._asdict())
        if table == "steps":
            found["contributions"] = []
            while ahead is not None and ahead["step"] == found["number"]:
                found["contributions"].append(ahead)
                ahead = next(given, None)
        yield found


def row_digest(connection: Connection, table: str, key: str | int) -> str:
    """Return the digest of the row with that key, as it is stored."""
    found = one_row(connection, table, key)
    if found is None:
        raise AssertionError(f"{table}/{key} was not written")
    return digest_of(found)


def one_row(connection: Connection, table: str, key: str | int) -> dict[str, Any] | None:
    """Return the content of the row with that key, None if there is none."""
    query = text(f"SELECT * FROM {table} WHERE {KEYS[table]} = :key")  # noqa: S608 - of KEYS
    which: str | int | None = key if table == "requests" else _number(key)
    row = connection.execute(query, {"key": which}).one_or_none()
    if row is None:
        return None
    found = content(row._asdict())
    if table == "steps":
        found["contributions"] = list(_contributions(connection, "WHERE step = :step", {"step": which}))
    return found


def export(connection: Connection) -> Iterator[dict[str, Any]]:
    """Yield every row of the ledger as {"table": ..., "row": ...}; of an event what its digest is over."""
    for table in KEYS:
        for found in rows_of(connection, table):
            yield {"table": table, "row": found}
    for row in stream(connection, "SELECT * FROM events ORDER BY number"):
        yield {"table": "events", "row": {**row._asdict(), "facts": read_facts(row.facts)}}
    for row in connection.execute(text("SELECT * FROM head")):
        yield {"table": "head", "row": content(row._asdict())}


def _number(key: str | int) -> int | None:
    """Return the number that a key is; None: somebody made it something else."""
    try:
        return int(key)
    except ValueError:
        return None


def _contributions(
    connection: Connection, where: str = "", values: Mapping[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield contributions in the order of steps and members."""
    query = f"SELECT * FROM contributions {where} ORDER BY step, member"  # noqa: S608 - written here
    for row in stream(connection, query, values):
        yield content(row._asdict())
