"""How far a log was checked: a mark, from which the next check resumes.

A mark is the head of the log as it was found sound, with the seal that the server had set on it, and the number of rows
of each table. Whoever keeps it need not read again what lies before it, and does not: an edit before the mark is found
by a full check only. A mark that somebody else writes can be nothing but another head that the server has sealed, so
it moves the place from which the check resumes, and no event after that place can be altered unseen. The numbers of
rows are not sealed: with others, an inserted row is found by a full check only.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from sqlalchemy import Connection, text

from fedquit.errors import InputError
from fedquit.server.ledger.audit_log.hash_chain import head_message
from fedquit.server.ledger.audit_log.seal import Seal

FORM = "fedquit ledger mark v1"
COUNTED = ("members", "requests", "steps", "contributions")


@dataclass(frozen=True, slots=True)
class Mark:
    """See the module.

    Attributes:
        number: of the last event that was checked; `digest`: its digest.
        rows: how many rows each of `COUNTED` had.
        seal: of the head, hex; "": it had none.
    """

    number: int
    digest: str
    rows: Mapping[str, int]
    seal: str = ""

    @classmethod
    def of(cls, connection: Connection) -> Self:
        """Return the mark of a ledger as it is now, whose head must be there."""
        head = connection.execute(text("SELECT * FROM head")).one()
        seal = head.seal.hex() if isinstance(head.seal, bytes) else ""
        return cls(head.number, head.digest, counts(connection), seal)

    @classmethod
    def read(cls, content: str, what: str) -> Self:
        """Return the mark that a text says.

        Raises:
            InputError: it is none; the line begins with `what`.
        """
        try:
            fields: dict[str, Any] = json.loads(content)
            if fields.pop("form") != FORM:
                raise ValueError("another form")
            mark = cls(**fields)
            whole = all(isinstance(mark.rows[table], int) for table in COUNTED) and isinstance(mark.number, int)
            if not whole or not isinstance(mark.digest, str):
                raise ValueError("a value of another kind")
            bytes.fromhex(mark.seal)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise InputError(f"{what} is no mark of a check; remove it, and everything is checked") from None
        return mark

    def text(self) -> str:
        """Return what `read` reads."""
        return json.dumps({"form": FORM, **asdict(self)}, indent=1) + "\n"

    def is_sealed_by(self, seal: Seal) -> bool:
        """Say whether the server had sealed the head that this is of; a log without an event has no seal."""
        return self.number == 0 or seal.verify(head_message(self.number, self.digest), bytes.fromhex(self.seal))


def counts(connection: Connection) -> dict[str, int]:
    """Return how many rows each table has."""
    return {
        table: int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())  # noqa: S608 - of COUNTED
        for table in COUNTED
    }
