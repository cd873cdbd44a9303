"""One request to forget, from asked to done: a turn is one state or one round, and one transaction of the ledger.

Any number of requests may be forgetting, as most of that is waiting for a device; one at a time recovers. A request
whose device is not connected has no turn, and holds up neither training nor other requests.

asked       -> forgetting   a client's member is withdrawn in the same transaction
forgetting  -> recovering   by the policy's method, or by the next one where that cannot; the model is written first
            -> refused      there is nothing to forget; or the guard refused what the device handed back, and no other
                            method is left
            -> failed       no method could do it
recovering  -> recovering   a round without what was forgotten
            -> forgetting   the method had destroyed the model and recovery does not mend it: the model before is back,
                            and the next method has its turn; failed if none is left
            -> done         the stop rule holds; what contained the data is removed, and the receipt is made, before
            -> unrecovered  the same, but the goal was not reached: the rounds are over, the deadline is there, nobody
                            is left, or no round could be carried out for a device-timeout
"""

from fedquit.errors import AwayError, CannotForgetError, NoReplyError, NothingToForgetError, RefusedModelError
from fedquit.server.coordinator.model_metrics import ModelMetrics
from fedquit.server.coordinator.participants.presence import BEGUN, Presence
from fedquit.server.coordinator.participants.time_to_answer import time_left
from fedquit.server.coordinator.requests.attempts import Attempts
from fedquit.server.coordinator.requests.end_request import Ending
from fedquit.server.coordinator.requests.forget_step import ForgetStep
from fedquit.server.coordinator.requests.next_request import Turns
from fedquit.server.coordinator.requests.policy import chain, methods_left, plan_of
from fedquit.server.coordinator.requests.recovery_rounds import Recovery
from fedquit.server.coordinator.retention import Past
from fedquit.server.coordinator.training_rounds import Training
from fedquit.server.coordinator.workplace import Workplace
from fedquit.server.ledger import Request, RequestState


class RequestSteps:
    """Serves requests at one workplace."""

    def __init__(self, place: Workplace, past: Past, metrics: ModelMetrics, training: Training) -> None:
        self.place, self.past, self.training = place, past, training
        self.attempts = Attempts(place)
        self.forget_step = ForgetStep(place, past, metrics, training)
        self.turns = Turns(place, self.forget_step.holders, self.attempts)
        self.recovery = Recovery(training, Ending(place, past, training), self.attempts)

    def next(self, presence: Presence) -> Request | None:
        """Return the request that has its turn; None: there is none, or all wait."""
        return self.turns.next(presence)

    def turn(self, request: Request, presence: Presence) -> bool:
        """Do the next thing for a request; False: it must wait."""
        if not self.attempts.may_begin(request):
            return False
        if request.status == "asked":
            return self._begin(request)
        if request.status == "forgetting":
            return self._forget(request, presence)
        return self.recovery.turn(request, presence)

    def _begin(self, request: Request) -> bool:
        place, able = self.place, chain(self.place.federation, request.granularity)
        place.reached("asked: begin")
        if not able:
            reason = f"no method of [forgetting] forgets by {request.granularity}"
            place.ledger.advance(request.id, of="asked", to="refused", kind="refused", reason=reason)
            return True
        if beyond := place.no_such_class(request):
            place.ledger.advance(request.id, of="asked", to="refused", kind="refused", reason=beyond)
            return True
        leave = self._leave(request)
        if leave is not None:
            reason = f"request {leave.id[:12]} covers it: the device left with all its data"
            place.ledger.advance(request.id, of="asked", to="refused", kind="refused", reason=reason)
            return True
        place.ledger.advance(
            request.id,
            of="asked",
            to="forgetting",
            kind="forgetting",
            method=able[0][1].name,
            model_before=place.current(),
            withdraw=request.granularity == "client",
        )
        place.reached("forgetting: committed")
        return True

    def _leave(self, request: Request) -> RequestState | None:
        """Return the request with which this one's device left already, if it did.

        Service and coordinator each check before they take a request, so two of one device can come in at once.
        """
        if request.granularity == "class":
            return None
        before = self.place.ledger.request_lines(subject=request.subject)
        return next((other for other in before if other.granularity == "client" and other.status in BEGUN), None)

    def _forget(self, request: Request, presence: Presence) -> bool:
        """Have the request's present method do it, or go to the next one."""
        place = self.place
        if beyond := place.no_such_class(request):
            return self._refuse(request, beyond)
        if not self.turns.is_contained(request):
            facts = {"why": "no model contained any of it"}
            model = place.current()
            place.ledger.advance(
                request.id,
                of="forgetting",
                to="recovering",
                kind="forgot",
                facts=facts,
                model_before=model,
                model_after=model,
            )
            return True
        plan, method = plan_of(place.federation, request)
        missing = self.turns.missing(request, method, presence)
        if missing:  # and its time is up, or it would have no turn
            return self._fall_back(request, missing, presence)
        place.models.load(place.current())  # without it nothing can be done, and no method is to blame
        try:
            self.forget_step.carry_out(request, plan, method, presence)
        except NothingToForgetError as nothing:
            return self._refuse(request, str(nothing))
        except RefusedModelError as refusal:
            return self._fall_back(request, str(refusal), presence, refused=True, answered=method.traits.needs_device)
        except NoReplyError as reason:
            answered = not isinstance(reason, AwayError)
            late = time_left(place, request) <= 0
            if answered:
                self.attempts.fail(request)
            if answered and request.granularity != "class":
                self.attempts.rest(request.subject, self.forget_step.began_at, late=late)
            if not late and not self.attempts.are_over(request):
                self.attempts.pause(request)
                return False
            return self._fall_back(request, str(reason), presence, answered=answered and not late)
        except CannotForgetError as reason:
            return self._fall_back(request, str(reason), presence, answered=method.traits.needs_device)
        return True

    def _refuse(self, request: Request, reason: str) -> bool:
        """End a request for which there is nothing to do; the model stays as it is."""
        self.place.ledger.advance(request.id, of="forgetting", to="refused", kind="refused", reason=reason[:1000])
        self.past.tidy()
        self.place.reached("refused: committed")
        return True

    def _fall_back(
        self, request: Request, why: str, presence: Presence, *, refused: bool = False, answered: bool = False
    ) -> bool:
        """Go to the next method, or end.

        Args:
            request: which.
            why: its present method could not do it.
            presence: which devices are connected.
            refused: whether the guard refused a model.
            answered: whether a device replied, with whatever.
        """
        place, events = self.place, self.place.ledger.events(request=request.id)
        left = methods_left(place.federation, request, events, is_there=answered or presence.has(request))
        facts = {"failed": request.method, "why": why[:1000], "answered": answered}
        self.attempts.begin_method(request)
        place.reached("forgetting: falling back")
        if left:
            place.ledger.advance(
                request.id, of="forgetting", to="forgetting", kind="fallback", method=left[0], facts=facts
            )
        else:
            end = "refused" if refused else "failed"
            reason = f"{request.method}: {why}"[:1000]
            place.ledger.advance(request.id, of="forgetting", to=end, kind=end, reason=reason, facts=facts)
            self.past.tidy()
        place.reached("forgetting: fell back")
        return True
