"""What a model descends from: the steps of the ledger, each from `model_before` to `model_after`.

A model is its file: one with a SHA-256 that was there before is that earlier model. So a step that goes back, as
retraining and undoing do, makes nothing new, and what follows it descends from the model that it went back to.

A request reads its own steps, those that made a model that contained its data, and nothing before: indices find them,
so that it takes no longer after years of rounds.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

from sqlalchemy import Connection, Select, exists, func, select

from fedquit.errors import FedquitError
from fedquit.server.ledger.rows import RequestState, Step, StepLine
from fedquit.server.ledger.storage.tables import contributions, steps


def forget_step(own: Sequence[Step], request: RequestState) -> Step | None:
    """Return the step that forgot, None if there is none or it was undone.

    Args:
        own: the steps that served the request; others do no harm.
        request: which one.
    """
    served = [step for step in own if step.request == request.id and step.phase in ("forget", "undo")]
    return served[-1] if served and served[-1].phase == "forget" else None


def recovery(own: Sequence[Step], request: RequestState) -> list[Step]:
    """Return the rounds of recovery since the step that forgot."""
    forgot = forget_step(own, request)
    return [s for s in own if forgot and s.number > forgot.number and (s.request, s.phase) == (request.id, "recover")]


def descendants(connection: Connection, request: RequestState) -> list[StepLine]:
    """Return the steps from the first whose model contained what the request is about to the one before it forgot.

    If the federation went back meanwhile, for another request, not all of them did: it is no promise to say too much.
    """
    first, last = _first_holding(connection, request), _last_before(connection, request)
    if first is None:
        return []
    query = select(steps.c.number, steps.c.phase, steps.c.model_after).order_by(steps.c.number)
    rows = connection.execute(query.where(steps.c.number.between(first, last)))
    return [StepLine(row.number, row.phase, row.model_after) for row in rows]


def is_descendant(connection: Connection, request: RequestState, model: str) -> bool:
    """Say whether a model is that of one of the `descendants`."""
    first, last = _first_holding(connection, request), _last_before(connection, request)
    query = select(exists().where(steps.c.model_after == model, steps.c.number.between(first, last)))
    return first is not None and bool(connection.execute(query).scalar())


def is_known(connection: Connection, model: str) -> bool:
    """Say whether a model was ever the federation's."""
    return model == _initial(connection) or _maker(connection, model) is not None


def check_exact(connection: Connection, request: RequestState, model: str) -> None:
    """Check that a model descends from none that contained what the request is about.

    Who contributes after the request was served has dropped what it is about. The way back ends at the first step whose
    model contained it, as no earlier one did.

    Args:
        connection: to the ledger.
        request: which one.
        model: SHA-256 of its file.

    Raises:
        FedquitError: it does.
    """
    first, last = _first_holding(connection, request), _last_before(connection, request)
    made = list(takewhile(lambda number: first is not None and number >= first, _ancestry(connection, model)))
    if any(number <= last and _holder_gave(connection, request, number) for number in made):
        raise FedquitError(f"model {model[:12]} (step {made[0]}) descends from the data of the request")


def _last_before(connection: Connection, request: RequestState) -> int:
    """Return the last step before the one that forgot; the last of all if none did, or it was undone."""
    query = select(steps.c.number, steps.c.phase).where(steps.c.request == request.id).order_by(steps.c.number.desc())
    served = connection.execute(query.where(steps.c.phase.in_(("forget", "undo"))).limit(1)).one_or_none()
    if served is not None and served.phase == "forget":
        return int(served.number) - 1
    return connection.execute(select(func.max(steps.c.number))).scalar() or 0


def _first_holding(connection: Connection, request: RequestState) -> int | None:
    """Return the first step whose model contained what the request is about; None: no model did."""
    earlier = steps.alias()
    old = exists().where(earlier.c.model_after == steps.c.model_after, earlier.c.number < steps.c.number)
    query = _given(request).where(steps.c.number <= _last_before(connection, request), ~old)
    query = query.where(steps.c.model_after != (_initial(connection) or ""))
    return connection.execute(query.order_by(contributions.c.step).limit(1)).scalar()


def _given(request: RequestState) -> Select[Any]:
    """Select the steps with contributions that are taken to hold what a request is about.

    A class may lie on any device; the server does not see where.
    """
    query = select(contributions.c.step).join(steps, steps.c.number == contributions.c.step)
    return query if request.granularity == "class" else query.where(contributions.c.member == request.subject)


def _holder_gave(connection: Connection, request: RequestState, number: int) -> bool:
    """Say whether what was contributed to a step is taken to hold what a request is about."""
    return connection.execute(_given(request).where(contributions.c.step == number).limit(1)).scalar() is not None


def _ancestry(connection: Connection, model: str) -> Iterator[int]:
    """Yield the number of the step that first made a model, then of the one whose model that step began with, ..."""
    initial, after = _initial(connection), math.inf
    while model != initial:
        made = _maker(connection, model)
        if made is None or made[0] >= after:  # it was not there yet when that step began
            return
        yield made[0]
        after, model = made


def _maker(connection: Connection, model: str) -> tuple[int, str] | None:
    """Return the number of the step that first made a model, and the model that it began with."""
    query = select(steps.c.number, steps.c.model_before).where(steps.c.model_after == model)
    row = connection.execute(query.order_by(steps.c.number).limit(1)).one_or_none()
    return None if row is None else (int(row.number), row.model_before)


def _initial(connection: Connection) -> str | None:
    """Return the model that the first step began with."""
    return connection.execute(select(steps.c.model_before).where(steps.c.number == 1)).scalar()
