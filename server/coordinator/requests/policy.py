"""Which request is next, and by which methods it may be served, in order."""

from collections.abc import Sequence

from fedquit.client.training.build_method import method_of
from fedquit.errors import InputError
from fedquit.server.federation import Federation
from fedquit.server.ledger import Event, Request
from fedquit.settings import Settings
from fedquit.unlearning.methods.base import Method

NEAR = 0.1
"""Share of the time for a request that is left when its deadline is near."""


def plans(federation: Federation) -> list[Settings]:
    """Return the settings of the federation's method, and after it of each fallback.

    >>> [plan.method for plan in plans(Federation(name="clinics", forgetting={"fallback": ["negate", "retrain"]}))]
    ['fedquit', 'negate', 'retrain']
    """
    first = federation.settings()
    others = [name for name in federation.forgetting.fallback if name != first.method]
    plain = {"teacher": "min", "method_settings": {}}
    return [first, *(first.model_copy(update={"method": name, **plain}) for name in dict.fromkeys(others))]


def chain(federation: Federation, granularity: str) -> list[tuple[Settings, Method]]:
    """Return the methods that can forget at this granularity, in the order in which they are tried."""
    able = [(plan, method_of(plan)) for plan in plans(federation)]
    return [(plan, method) for plan, method in able if granularity in method.traits.granularities]


def plan_of(federation: Federation, request: Request) -> tuple[Settings, Method]:
    """Return the method that a request has come to.

    Raises:
        InputError: the policy does not name it any more.
    """
    for plan, method in chain(federation, request.granularity):
        if method.name == request.method:
            return plan, method
    raise InputError(
        f"request {request.id[:12]} is being served by {request.method}, which [forgetting] no longer names: "
        "name it again as method or fallback until the request is done"
    )


def methods_left(federation: Federation, request: Request, events: Sequence[Event], *, is_there: bool) -> list[str]:
    """Return the methods that a request may still come to, in order.

    A method that destroys the model is left out if the device is connected or has replied: it could trigger it at will.

    Args:
        federation: the server's config.
        request: which.
        events: its own.
        is_there: whether a device that should have forgotten is connected, or has just replied.
    """
    able = [method for _, method in chain(federation, request.granularity)]
    after = able[[method.name for method in able].index(request.method) + 1 :]
    spared = is_there or any(event.facts.get("answered") for event in events)
    return [method.name for method in after if not (spared and method.traits.destroys)]


def methods(federation: Federation) -> list[Method]:
    """Return all methods of the policy.

    Raises:
        InputError: a plan cannot be made.
    """
    found = [method_of(plan) for plan in plans(federation)]
    if not found:
        raise InputError("[forgetting] names no method")
    return found


def is_near(request: Request, now: float) -> bool:
    """Say whether a request's deadline is near or past."""
    return now >= request.deadline - NEAR * (request.deadline - request.asked_at)


def next_of(asked: Sequence[Request], now: float) -> Request | None:
    """Return the request to begin with: the one whose deadline is nearest, if that is near; else the oldest.

    Args:
        asked: oldest first.
        now: Unix seconds.
    """
    pressing = [request for request in asked if is_near(request, now)]
    if pressing:
        return min(pressing, key=lambda request: request.deadline)
    return next(iter(asked), None)
