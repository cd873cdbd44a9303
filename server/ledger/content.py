"""What the rows of the ledger say, as JSON, and the digest by which the audit log vouches for each of them."""

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, text

from fedquit.server.ledger.chain import digest_of

KEYS = {"members": "number", "requests": "id", "steps": "number"}


def content(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with its bytes as hex.

    >>> content({"id": "ab", "ask": bytes([1, 255]), "receipt": None})
    {'id': 'ab', 'ask': '01ff', 'receipt': None}
    """
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in row.items()}


def rows_of(connection: Connection, table: str) -> Iterator[dict[str, Any]]:
    """Yield the content of each row of `table`; a step's with its contributions."""
    given = _contributions(connection) if table == "steps" else iter(())
    ahead = next(given, None)
    for row in connection.execute(text(f"SELECT * FROM {table} ORDER BY {KEYS[table]}")):  # noqa: S608 - of KEYS
        found = content(row._mapping)
        if table == "steps":
            found["contributions"] = []
            while ahead is not None and ahead["step"] == found["number"]:
                found["contributions"].append(ahead)
                ahead = next(given, None)
        yield found


def row_digest(connection: Connection, table: str, key: str | int) -> str:
    """Return the digest of the row with that key, as it is stored."""
    query = text(f"SELECT * FROM {table} WHERE {KEYS[table]} = :key")  # noqa: S608 - of KEYS
    found = content(connection.execute(query, {"key": key}).one()._mapping)
    if table == "steps":
        found["contributions"] = list(_contributions(connection, "WHERE step = :step", {"step": key}))
    return digest_of(found)


def _contributions(
    connection: Connection, where: str = "", values: Mapping[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield contributions in the order of steps and members."""
    query = text(f"SELECT * FROM contributions {where} ORDER BY step, member")  # noqa: S608 - written here
    for row in connection.execute(query, dict(values or {})):
        yield content(row._mapping)
