"""Sums over the steps, of each phase and of each member: written with each step, so that nobody need read them all.

The audit log does not cover them, as they follow from the steps, which it covers; `mismatches` compares.
"""

import math
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Row, Table, insert, select, text, update

from fedquit.server.ledger.rows import Contribution, MemberTotals, PhaseTotals, Step
from fedquit.server.ledger.storage.tables import member_totals, phase_totals

SUMMED = ("refused", "seconds", "device_seconds", "bytes_down", "bytes_up")
CLOSE = 1e-9
"""Sums of seconds may differ by this share: they depend on the order of adding."""
OF_PHASES = (
    "SELECT phase, count(*) AS steps, sum(refused) AS refused, sum(seconds) AS seconds, "
    "sum(device_seconds) AS device_seconds, sum(bytes_down) AS bytes_down, sum(bytes_up) AS bytes_up "
    "FROM steps GROUP BY phase"
)
OF_MEMBERS = (
    "SELECT c.member, t.steps, t.last_step, c.num_examples FROM contributions c JOIN "
    "(SELECT member, count(*) AS steps, max(step) AS last_step FROM contributions GROUP BY member) t "
    "ON c.member = t.member AND c.step = t.last_step"
)


def add(connection: Connection, step: Step) -> None:
    """Count a step that was stored just now."""
    known = connection.execute(select(phase_totals).where(phase_totals.c.phase == step.phase)).one_or_none()
    before = dict(known._mapping) if known else dict.fromkeys(("steps", *SUMMED), 0)
    values = {name: before[name] + getattr(step, name) for name in SUMMED} | {"steps": before["steps"] + 1}
    _put(connection, phase_totals, "phase", step.phase, values, known)
    for given in step.contributions:
        _count(connection, step.number, given)


def phases(connection: Connection) -> dict[str, PhaseTotals]:
    """Return the sums over the steps of each phase that there was."""
    rows = connection.execute(select(phase_totals))
    return {row.phase: PhaseTotals(**{k: v for k, v in row._mapping.items() if k != "phase"}) for row in rows}


def members(connection: Connection) -> dict[int, MemberTotals]:
    """Return what each member that contributed to a step has contributed."""
    rows = connection.execute(select(member_totals))
    return {row.member: MemberTotals(**{k: v for k, v in row._mapping.items() if k != "member"}) for row in rows}


def mismatches(connection: Connection) -> Iterator[str]:
    """Say which sums are not those of the steps that are there."""
    for name, key, query in (
        ("phase", phase_totals.c.phase, OF_PHASES),
        ("member", member_totals.c.member, OF_MEMBERS),
    ):
        stored = {row._mapping[key.name]: row._mapping for row in connection.execute(select(key.table))}
        right = {row._mapping[key.name]: row._mapping for row in connection.execute(text(query))}
        for which in sorted({*stored, *right}):
            if which not in stored or which not in right or not _same(stored[which], right[which]):
                yield f"the totals of {name} {which} are not those of its steps"


def _count(connection: Connection, number: int, given: Contribution) -> None:
    """Count what one member gave to the step of that number."""
    known = connection.execute(select(member_totals).where(member_totals.c.member == given.member)).one_or_none()
    steps = known.steps + 1 if known else 1
    values = {"steps": steps, "last_step": int(number), "num_examples": int(given.num_examples)}
    _put(connection, member_totals, "member", int(given.member), values, known)


def _put(
    connection: Connection, table: Table, key: str, which: str | int, values: dict[str, Any], known: Row[Any] | None
) -> None:
    """Write the row of `which`; `known` is the one that is there."""
    if known is None:
        connection.execute(insert(table).values({key: which, **values}))
    else:
        connection.execute(update(table).where(table.c[key] == which).values(values))


def _same(stored: Any, right: Any) -> bool:
    """Say whether two rows of totals agree."""

    def near(one: Any, other: Any) -> bool:
        floats = isinstance(one, float) and isinstance(other, float)
        return math.isclose(one, other, rel_tol=CLOSE, abs_tol=CLOSE) if floats else bool(one == other)

    return all(near(stored[name], value) for name, value in right.items())
