"""How long the device of a request is still waited for, without the time in which no coordinator looked.

Each look at the devices is written down (`last_look`). A coordinator that starts reads there since when none
looked, and notes that in the log for each request that waits. After a crash of the process alone that is a moment.
"""

from fedquit.server.coordinator.workplace import Workplace
from fedquit.server.ledger import Request
from fedquit.server.serve.last_look import look_of

AWAY = "server-away"
SHORT = 10.0
"""An outage of at most this many seconds is not noted."""


def note_outage(place: Workplace) -> None:
    """Note for each request that waits for how long no coordinator looked; to be called before the first look."""
    now, last = place.clock(), _last_look(place)
    for request in place.ledger.requests(status="forgetting"):
        seconds = now - max(last, request.changed_at)
        if seconds > SHORT:
            place.note(AWAY, request=request.id, member=request.subject, facts={"seconds": seconds})


def note_jump(place: Workplace, seconds: float) -> None:
    """Note for each request that waits that the clock was set by so many seconds: they have not passed."""
    for request in place.ledger.requests(status="forgetting"):
        place.note(AWAY, request=request.id, member=request.subject, facts={"seconds": seconds, "clock": True})


def _last_look(place: Workplace) -> float:
    """Return when the devices were last looked at, or else (a folder that was restored) when something happened."""
    at = look_of(place.folder)
    if at is not None:
        return at
    number, _ = place.ledger.head()
    return max((event.at for event in place.ledger.events(after=number - 1)), default=0.0)


def time_left(place: Workplace, request: Request) -> float:
    """Return for how many more seconds the device of a request is waited for; below 0: not any more."""
    left = request.changed_at + place.federation.forgetting.device_timeout - place.clock()
    if left > 0:
        return left
    away = [event for event in place.ledger.events(request=request.id) if event.kind == AWAY]
    return left + sum(float(event.facts["seconds"]) for event in away if event.at >= request.changed_at)


def time_to_answer(place: Workplace, request: Request) -> float:
    """Return how many seconds a device has to reply to a message sent now: at least the time of a round."""
    config = place.federation
    return max(time_left(place, request), min(config.schedule.round_timeout, config.forgetting.device_timeout))
