"""One request to forget, from asked to done: a turn is one state or one round, and one transaction of the ledger.

Any number of requests may be forgetting, as most of that is waiting for a device; one at a time recovers. A request
whose device is not there has no turn, and holds up neither training nor other requests.

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

from collections import Counter

from fedquit.errors import (
    AwayError,
    CannotForgetError,
    FedquitError,
    NoReplyError,
    NothingToForgetError,
    RefusedModelError,
)
from fedquit.server.coordinator.end_request import Ending
from fedquit.server.coordinator.forget_step import Forgetting
from fedquit.server.coordinator.model_evaluation import Evaluator
from fedquit.server.coordinator.participants.presence import BEGUN, Presence
from fedquit.server.coordinator.participants.time_to_answer import time_left
from fedquit.server.coordinator.policy import chain, methods_left, next_of, plan_of
from fedquit.server.coordinator.retention import Past
from fedquit.server.coordinator.training_rounds import Training
from fedquit.server.coordinator.workplace import Workplace
from fedquit.server.ledger import Request, Step
from fedquit.server.ledger.model_lineage import forget_step, recovery
from fedquit.server.lifecycle.recovery_plan import RecoveryPlan, stop_rule
from fedquit.server.lifecycle.train_round import correction
from fedquit.unlearning.methods.base import Method
from fedquit.unlearning.stop_rules import Stopped

ATTEMPTS = 3
"""How often a device that is there may fail to answer before another method is tried."""
PAUSE = 60.0
"""Seconds at most between two attempts."""
REST = 9.0
"""A device that did not answer is asked again after so many times as long as that took: all others need a tenth."""


class Answering:
    """Serves requests at one workplace."""

    def __init__(self, place: Workplace, past: Past, evaluator: Evaluator, training: Training) -> None:
        self.place, self.past, self.evaluator, self.training = place, past, evaluator, training
        self.forgetting = Forgetting(place, past, evaluator, training)
        self.ending = Ending(place, past, training)
        self._failures = Counter[str]()
        self._not_before: dict[str, float] = {}
        self._failed_at: dict[int, float] = {}  # member -> when it last did not answer
        self._rest: dict[int, float] = {}  # member -> until when it is not asked, as it did not answer
        self._stuck: dict[str, float] = {}  # request -> since when no round of recovery could be carried out

    def next(self, presence: Presence) -> Request | None:
        """Return the request that has its turn; None: there is none, or all wait.

        One that recovers goes on. Else the oldest has it that can be served, or whose deadline is near. All that its
        member has asked is begun before, so that all of it waits together; so is what cannot be served yet.
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
        if self.place.clock() < self._not_before.get(request.id, 0.0):
            return False
        if not self._is_contained(request) or time_left(self.place, request) <= 0:
            return True
        return not self._missing(request, plan_of(self.place.federation, request)[1], presence)

    def turn(self, request: Request, presence: Presence) -> bool:
        """Do the next thing for a request; False: it must wait."""
        if self.place.clock() < self._not_before.get(request.id, 0.0):
            return False
        if request.status == "asked":
            return self._begin(request)
        if request.status == "forgetting":
            return self._forget(request, presence)
        return self._recover(request, presence)

    def _begin(self, request: Request) -> bool:
        place, able = self.place, chain(self.place.federation, request.granularity)
        place.reached("asked: begin")
        if not able:
            reason = f"no method of [forgetting] forgets by {request.granularity}"
            place.ledger.advance(request.id, of="asked", to="refused", kind="refused", reason=reason)
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

    def _leave(self, request: Request) -> Request | None:
        """Return the request with which this one's device left already, if it did.

        Service and coordinator each look before they take an ask, so two of one device can come in at once.
        """
        if request.granularity == "class":
            return None
        before = self.place.ledger.requests(subject=request.subject)
        return next((other for other in before if other.granularity == "client" and other.status in BEGUN), None)

    def _forget(self, request: Request, presence: Presence) -> bool:
        """Have the request's present method do it, or go to the next one."""
        place = self.place
        if not self._is_contained(request):
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
        missing = self._missing(request, method, presence)
        if missing:  # and its time is up, or it would have no turn
            return self._fall_back(request, missing, presence)
        place.models.load(place.current())  # without it nothing can be done, and no method is to blame
        try:
            self.forgetting.carry_out(request, plan, method, presence)
        except NothingToForgetError as nothing:
            return self._refuse(request, str(nothing))
        except RefusedModelError as refusal:
            return self._fall_back(request, str(refusal), presence, refused=True, answered=method.traits.needs_device)
        except NoReplyError as reason:
            answered = not isinstance(reason, AwayError)
            late = time_left(place, request) <= 0
            self._failures[request.id] += answered
            if answered and request.granularity != "class":
                self._leave_alone(request.subject, late)
            if self._failures[request.id] < ATTEMPTS and not late:
                self._try_again(request)
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

    def _is_contained(self, request: Request) -> bool:
        """Say whether any model contains what the request is about."""
        if request.granularity == "class":
            return self.place.ledger.last_step() is not None
        return self.place.ledger.most_contributed(request.subject) is not None

    def _missing(self, request: Request, method: Method, presence: Presence) -> str:
        """Return who a method needs and is not there; empty: nobody."""
        if method.traits.needs_device and request.granularity != "class" and request.subject not in presence.here:
            return f"the device of member {request.subject} did not connect in time"
        if self._is_resting(request, method):
            return f"the device of member {request.subject} did not answer when it was last asked"
        if method.traits.runs_at == "federation" and not set(presence.ready) - {request.subject}:
            return "no device that stays connected in time"
        if request.granularity == "class" and method.traits.needs_device:
            without = self.forgetting.without(request)
            return "" if set(presence.ready) - without else "no device that holds any of it connected in time"
        return ""

    def _leave_alone(self, member: int, late: bool) -> None:
        """Leave a device that did not answer alone for a while; in a long time, one failure is forgiven."""
        now, timeout = self.place.clock(), self.place.federation.forgetting.device_timeout
        again = member in self._failed_at and now < self._failed_at[member] + (1 + REST) * timeout
        self._failed_at[member] = now
        if late or again:
            self._rest[member] = now + REST * (now - self.forgetting.asked_at)

    def _is_resting(self, request: Request, method: Method) -> bool:
        """Say whether a request needs a device that has let others wait, and is not asked again yet."""
        needed = method.traits.needs_device and request.granularity != "class"
        return needed and self.place.clock() < self._rest.get(request.subject, 0.0)

    def _fall_back(
        self, request: Request, why: str, presence: Presence, *, refused: bool = False, answered: bool = False
    ) -> bool:
        """Go to the next method, or end.

        Args:
            request: which.
            why: its present method could not do it.
            presence: who is there.
            refused: whether the guard refused a model.
            answered: whether a device answered, with whatever.
        """
        place, events = self.place, self.place.ledger.events(request=request.id)
        left = methods_left(place.federation, request, events, is_there=answered or presence.has(request))
        facts = {"failed": request.method, "why": why[:1000], "answered": answered}
        self._failures.pop(request.id, None)
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

    def _recover(self, request: Request, presence: Presence) -> bool:
        """Carry out a round of recovery, or end it."""
        place, own = self.place, self.place.ledger.steps(request=request.id)
        forgot, rounds = forget_step(own, request), recovery(own, request)
        stopped = self._stopped(request, forgot, rounds, presence)
        if stopped:
            self._stuck.pop(request.id, None)
            self.ending.end(request, forgot, rounds, stopped, presence)
            return True
        if len(presence.ready) < max(1, place.rules.recovery.needs()):
            self._stuck.setdefault(request.id, place.clock())
            return False
        method = plan_of(place.federation, request)[1]
        correct = correction(
            method,
            lambda: place.state(request.model_before),
            lambda: place.state(forgot.model_after if forgot else place.initial),
            place.names,
        )
        try:
            self.training.step(presence, request, correct)
        except FedquitError as error:
            place.note("round-failed", request=request.id, facts={"reason": str(error)[:500]})
            self._stuck.setdefault(request.id, place.clock())
            self._try_again(request)
            return False
        self._stuck.pop(request.id, None)
        return True

    def _try_again(self, request: Request) -> None:
        """Leave a request alone for a while."""
        pause = min(PAUSE, self.place.federation.forgetting.device_timeout / (2 * ATTEMPTS))
        self._not_before[request.id] = self.place.clock() + pause

    def _stopped(self, request: Request, forgot: Step | None, rounds: list[Step], presence: Presence) -> Stopped | None:
        """Return why recovery ends now, or None."""
        if forgot is None:
            return Stopped("there was nothing to forget", reached=True)
        if not presence.devices:
            return Stopped("no device is left to recover with", reached=False)
        if self.place.clock() >= request.deadline:
            return Stopped(f"the deadline cut recovery short after {len(rounds)} round(s)", reached=False)
        patience = self.place.federation.forgetting.device_timeout
        if self.place.clock() - self._stuck.get(request.id, self.place.clock()) >= patience:
            reason = f"no round of recovery could be carried out for {patience:.0f} s, after {len(rounds)} round(s)"
            return Stopped(reason, reached=False)
        policy, lost = self.place.federation.forgetting, self._rounds_lost(request, forgot)
        plan = RecoveryPlan("utility", policy.recover_rounds, 0, policy.tolerance, policy.patience, lost)
        rule = stop_rule(plan, forgot.measures.get("accuracy_before"))
        return rule.stop([step.measures.get("accuracy", 0.0) for step in rounds], 0)

    def _rounds_lost(self, request: Request, forgot: Step) -> int:
        """Return how many rounds the model had beyond the one that was gone back to; 0: none was."""
        if not plan_of(self.place.federation, request)[1].traits.restarts:
            return 0
        [before, *_] = self.place.ledger.steps(after=forgot.number - 2)
        return max(0, before.round - forgot.round)
