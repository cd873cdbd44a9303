"""Which request is next, and what a request that cannot be served waits for."""

from fedquit.server.coordinator.participants.presence import Presence
from fedquit.server.coordinator.participants.time_to_answer import time_left
from fedquit.server.coordinator.requests.attempts import Attempts
from fedquit.server.coordinator.requests.holders import Holders
from fedquit.server.coordinator.requests.policy import next_of, plan_of
from fedquit.server.coordinator.workplace import Workplace
from fedquit.server.ledger import Request
from fedquit.unlearning.methods.base import Method


class Turns:
    """Chooses the next request at one workplace."""

    def __init__(self, place: Workplace, holders: Holders, attempts: Attempts) -> None:
        self.place, self.holders, self.attempts = place, holders, attempts

    def next(self, presence: Presence) -> Request | None:
        """Return the next request to serve; None: there is none, or all wait.

        A request that recovers continues. Otherwise it is the oldest that can be served, or one whose deadline is near.
        All other requests of its member begin before it, so that they wait together; so do those that nothing can be
        done for yet.
        """
        ledger, now = self.place.ledger, self.place.clock()
        recovering = ledger.requests(status="recovering")
        if recovering:
            return recovering[0]
        forgetting, asked = ledger.requests(status="forgetting"), ledger.requests(status="asked")
        able = [one for one in forgetting if self._is_able(one, presence)]
        able += [one for one in asked if one.granularity == "class" or one.subject in presence.here]
        chosen = next_of(sorted(able, key=lambda one: one.asked_at), now)
        if chosen is None:
            return next_of(asked, now)
        with_it = [one for one in asked if one.subject == chosen.subject and one.granularity != "class"]
        return chosen if chosen.granularity == "class" else next(iter(with_it), chosen)

    def _is_able(self, request: Request, presence: Presence) -> bool:
        """Say whether something can be done for a request that is forgetting."""
        if not self.attempts.may_begin(request):
            return False
        if not self.is_contained(request) or time_left(self.place, request) <= 0:
            return True
        return not self.missing(request, plan_of(self.place.federation, request)[1], presence)

    def is_contained(self, request: Request) -> bool:
        """Say whether any model contains what a request is about."""
        if request.granularity == "class":
            return self.place.ledger.last_step() is not None
        return self.place.ledger.has_contributed(request.subject)

    def missing(self, request: Request, method: Method, presence: Presence) -> str:
        """Return which device a method needs and cannot have now; "": none."""
        needs_device, is_class = method.traits.needs_device, request.granularity == "class"
        if needs_device and not is_class and request.subject not in presence.here:
            return f"the device of member {request.subject} did not connect in time"
        if needs_device and not is_class and self.attempts.is_resting(request.subject):
            return f"the device of member {request.subject} did not answer when it was last asked"
        if method.traits.runs_at == "federation" and not set(presence.ready) - {request.subject}:
            return "no device that stays connected in time"
        if is_class and needs_device and not set(presence.ready) - self.holders.without(request):
            return "no device that holds any of it connected in time"
        return ""
