"""The steps: finished rounds and forget steps, and what each member contributed to them."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, insert, select

from fedquit.errors import InputError, StateError, unknown
from fedquit.server.ledger import totals
from fedquit.server.ledger.audit_log.hash_chain import canonical
from fedquit.server.ledger.rows import Contribution, Step
from fedquit.server.ledger.storage.tables import contributions, members, requests, steps
from fedquit.server.ledger.storage.transaction import Writing

PHASES = ("train", "forget", "recover", "undo")


def add(writing: Writing, step: Step) -> None:
    """Store a step and its contributions; the caller logs it.

    Raises:
        StateError: it does not follow the last step, or trains on what a withdrawn member contributed.
        InputError: its phase, request or a member is unknown, a member is in it twice, or a number is not finite.
    """
    if step.phase not in PHASES:
        raise unknown("phase", step.phase, PHASES)
    last = writing.connection.execute(select(func.max(steps.c.number))).scalar() or 0
    if step.number != last + 1:
        raise StateError(f"step {step.number} does not follow step {last}, the last one; read where it is again")
    _check_request(writing.connection, step.request)
    _check_contributions(writing.connection, step)
    writing.connection.execute(insert(steps).values(_values(step)))
    rows = [
        {
            "step": step.number,
            "member": int(given.member),
            "num_examples": int(given.num_examples),
            "samples_digest": given.samples_digest,
        }
        for given in step.contributions
    ]
    if rows:
        writing.connection.execute(insert(contributions), rows)
    totals.add(writing.connection, step)


def facts_of(step: Step) -> dict[str, Any]:
    """Return what an event says of a step; its row and so all the rest is vouched for by its digest."""
    return {"step": step.number, "phase": step.phase, "round": int(step.round), "model_after": step.model_after}


def last_of(connection: Connection) -> Step | None:
    """Return the last step, or None before the first."""
    found = _read(connection, [steps.c.number == select(func.max(steps.c.number)).scalar_subquery()])
    return found[0] if found else None


def find(
    connection: Connection, phase: str | None, request: str | None, after: int, limit: int | None = None
) -> list[Step]:
    """Return the steps of a phase, or for a request, after the one numbered `after`; the oldest `limit` of them."""
    where = [steps.c.number > int(after)]
    if phase is not None:
        where.append(steps.c.phase == phase)
    if request is not None:
        where.append(steps.c.request == request)
    if limit is not None:
        numbers = select(steps.c.number).where(*where).order_by(steps.c.number).limit(int(limit))
        where = [steps.c.number.in_(numbers)]
    return _read(connection, where)


def newest(connection: Connection, number: int) -> list[Step]:
    """Return that many of the last steps, the oldest of them first."""
    last = connection.execute(select(func.max(steps.c.number))).scalar() or 0
    return _read(connection, [steps.c.number > last - int(number)])


def has_contributed(connection: Connection, member: int) -> bool:
    """Say whether a member contributed to any step."""
    given = select(contributions.c.step).where(contributions.c.member == int(member)).limit(1)
    return connection.execute(given).scalar() is not None


def _check_request(connection: Connection, request: str | None) -> None:
    """Refuse a request that is not there."""
    if request is not None:
        known = connection.execute(select(requests.c.id).where(requests.c.id == request)).one_or_none()
        if known is None:
            raise InputError(f"there is no request {request} in this ledger")


def _check_contributions(connection: Connection, step: Step) -> None:
    """Refuse members that are unknown, withdrawn, revoked or named twice."""
    known = {row.number: row.status for row in connection.execute(select(members.c.number, members.c.status))}
    seen: set[int] = set()
    for given in step.contributions:
        if given.member not in known:
            raise InputError(f"there is no member {given.member} in this ledger")
        if given.member in seen:
            raise InputError(f"member {given.member} contributes twice to step {step.number}")
        if known[given.member] == "revoked":
            raise StateError(
                f"the key of member {given.member} is revoked: step {step.number} may not contain what it sent"
            )
        if known[given.member] == "withdrawn" and step.phase != "forget":
            raise StateError(f"member {given.member} has withdrawn: step {step.number} may not contain what it sent")
        seen.add(given.member)


def _values(step: Step) -> dict[str, Any]:
    """Return what is stored of a step."""
    for name, value in {**step.measures, "seconds": step.seconds, "device_seconds": step.device_seconds}.items():
        if not math.isfinite(value):
            raise InputError(f"{name} of step {step.number} is {value}; the ledger takes finite numbers")
    return {
        "number": int(step.number),
        "phase": step.phase,
        "request": step.request,
        "model_before": step.model_before,
        "model_after": step.model_after,
        "round": int(step.round),
        "refused": int(step.refused),
        "seconds": float(step.seconds),
        "device_seconds": float(step.device_seconds),
        "bytes_down": int(step.bytes_down),
        "bytes_up": int(step.bytes_up),
        "measures": canonical({name: float(value) for name, value in step.measures.items()}).decode(),
        "at": float(step.at),
    }


def _read(connection: Connection, where: Iterable[ColumnElement[bool]]) -> list[Step]:
    """Return the steps that fit, with their contributions, oldest first."""
    chosen: Select[Any] = select(steps).where(*where).order_by(steps.c.number)
    numbers = select(steps.c.number).where(*where)
    given = select(contributions).where(contributions.c.step.in_(numbers)).order_by(contributions.c.member)
    of_step = defaultdict(list)
    for row in connection.execute(given):
        of_step[row.step].append(Contribution(row.member, row.num_examples, row.samples_digest))
    found = []
    for row in connection.execute(chosen):
        fields = dict(row._mapping)
        fields["measures"] = {name: float(value) for name, value in json.loads(fields["measures"]).items()}
        found.append(Step(**fields, contributions=tuple(of_step[fields["number"]])))
    return found
