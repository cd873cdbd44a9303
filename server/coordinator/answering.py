"""One request to forget, from asked to done: a turn is one state or one round, and one transaction of the ledger.

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

from fedquit.client.settings import Settings
from fedquit.errors import FedquitError, InputError
from fedquit.server.coordinator.forgetting import (
    AwayError,
    CannotForgetError,
    Forgetting,
    NothingToForgetError,
    RefusedModelError,
)
from fedquit.server.coordinator.judge import Judge
from fedquit.server.coordinator.past import Past
from fedquit.server.coordinator.policy import chain
from fedquit.server.coordinator.presence import BEGUN, Presence
from fedquit.server.coordinator.training import Training
from fedquit.server.coordinator.verifying import verify
from fedquit.server.coordinator.workplace import Workplace
from fedquit.server.ledger import Request, Step
from fedquit.server.lineage import check_exact, forget_step, recovery
from fedquit.server.message_store import DATABASE, erase_messages
from fedquit.server.receipts import Outcome
from fedquit.server.rounds import correction
from fedquit.strategies.costs import Traffic
from fedquit.strategies.guard.step_checks import Bounds
from fedquit.unlearning.methods import Method
from fedquit.unlearning.recovery import Budget, Stopped, StopRule, Utility
from fedquit.unlearning.session import NoAnswerError

ATTEMPTS = 3
"""How often a device that is there may fail to answer before another method is tried."""
PAUSE = 60.0
"""Seconds at most between two attempts."""
NOT_COMPARED = "no model was retrained without the data to compare with"


class Answering:
    """Serves requests at one workplace."""

    def __init__(self, place: Workplace, past: Past, judge: Judge, training: Training) -> None:
        self.place, self.past, self.judge, self.training = place, past, judge, training
        self.forgetting = Forgetting(place, past, judge, training)
        self._failures = Counter[str]()
        self._not_before: dict[str, float] = {}
        self._stuck: dict[str, float] = {}  # request -> since when no round of recovery could be carried out

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
            place.ledger.advance(
                request.id, of="forgetting", to="recovering", kind="forgot", facts=facts, model_after=place.current()
            )
            return True
        plan, method = self._plan(request)
        late = place.clock() >= request.changed_at + place.federation.forgetting.device_timeout
        missing = self._missing(request, method, presence)
        if missing and not late:
            return False
        if missing:
            return self._fall_back(request, missing, presence)
        place.models.load(place.current())  # without it nothing can be done, and no method is to blame
        try:
            self.forgetting.carry_out(request, plan, method, presence)
        except NothingToForgetError as nothing:
            return self._refuse(request, str(nothing))
        except RefusedModelError as refusal:
            return self._fall_back(request, str(refusal), presence, refused=True, answered=method.traits.needs_device)
        except NoAnswerError as reason:
            answered = not isinstance(reason, AwayError)
            self._failures[request.id] += answered
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
        if method.traits.runs_at == "federation" and not set(presence.ready) - {request.subject}:
            return "no device that stays connected in time"
        if request.granularity == "class" and method.traits.needs_device:
            without = self.forgetting.without(request)
            return "" if set(presence.ready) - without else "no device that holds any of it connected in time"
        return ""

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
        place, left = self.place, self._left(request, presence, answered=answered)
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

    def _left(self, request: Request, presence: Presence, *, answered: bool) -> list[str]:
        """Return the methods that may still be tried: none that destroys the model if a device is there or answered."""
        able = [method for _, method in chain(self.place.federation, request.granularity)]
        names = [method.name for method in able]
        told = any(event.facts.get("answered") for event in self.place.ledger.events(request=request.id))
        there = request.granularity != "class" and request.subject in presence.here
        spared = answered or told or there
        after = able[names.index(request.method) + 1 :]
        return [method.name for method in after if not (spared and method.traits.destroys)]

    def _recover(self, request: Request, presence: Presence) -> bool:
        """Carry out a round of recovery, or end it."""
        place, own = self.place, self.place.ledger.steps(request=request.id)
        forgot, rounds = forget_step(own, request), recovery(own, request)
        stopped = self._stopped(request, forgot, rounds, presence)
        if stopped:
            self._stuck.pop(request.id, None)
            self._end(request, forgot, rounds, stopped, presence)
            return True
        if len(presence.ready) < max(1, place.rules.recovery.needs()):
            self._stuck.setdefault(request.id, place.clock())
            return False
        method = self._plan(request)[1]
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
            told = f"no round of recovery could be carried out for {patience:.0f} s, after {len(rounds)} round(s)"
            return Stopped(told, reached=False)
        return self._rule(request, forgot).stop([step.measures.get("accuracy", 0.0) for step in rounds], 0)

    def _rule(self, request: Request, forgot: Step) -> StopRule:
        told = self.place.federation.forgetting
        method = self._plan(request)[1]
        most = told.recover_rounds
        if method.traits.restarts:  # so many rounds as the model had beyond the one that was gone back to
            before = self.place.ledger.steps(after=forgot.number - 2)[0]
            most = max(most, before.round - forgot.round)
        if "accuracy_before" not in forgot.measures:
            return Budget(rounds=most)
        return Utility(
            reference=min(1.0, forgot.measures["accuracy_before"]),
            tolerance=told.tolerance,
            patience=told.patience,
            max_rounds=most,
        )

    def _end(
        self, request: Request, forgot: Step | None, rounds: list[Step], stopped: Stopped, presence: Presence
    ) -> None:
        """End a request whose recovery is over, or go back to the model before where it was of no use."""
        self.place.reached("recovering: ending")
        why = self._untrue(request, forgot)
        if why:
            self.place.ledger.advance(request.id, of="recovering", to="failed", kind="failed", reason=why)
            self.past.tidy()
        elif forgot and self._is_destroyed(request, forgot, rounds, stopped):
            self._undo(request, forgot, stopped, presence)
        else:
            self._finish(request, forgot, rounds, stopped, presence)

    def _untrue(self, request: Request, forgot: Step | None) -> str:
        """Return why a receipt would not be true; empty: it would be."""
        if forgot is None:
            return ""
        model, steps = self.place.current(), self.place.ledger.steps()
        if model in self.past.contained(request):
            return f"{request.method}: no device is left to train with, and the model is one that contained the data"
        if not self._plan(request)[1].traits.restarts:
            return ""
        try:
            check_exact(steps, request, model)
        except FedquitError as error:
            return f"{request.method}: {error}"
        return ""

    def _is_destroyed(self, request: Request, forgot: Step, rounds: list[Step], stopped: Stopped) -> bool:
        """Say whether a method destroyed the model, and recovery has not given it back.

        It has if it reached its goal in accuracy, or the accuracy is above the floor below which the guard refuses.
        """
        if not self._plan(request)[1].traits.destroys:
            return False
        before = forgot.measures.get("accuracy_before")
        last = rounds[-1].measures.get("accuracy") if rounds else forgot.measures.get("accuracy_after")
        if before is None or last is None:
            return True  # nobody knows
        return not stopped.reached and last < Bounds().accuracy * before

    def _undo(self, request: Request, forgot: Step, stopped: Stopped, presence: Presence) -> None:
        """Go back to the model before the step that forgot, and on to the next method; failed if there is none."""
        place, number, left = self.place, self.place.next_number(), self._left(request, presence, answered=False)
        place.models.load(forgot.model_before)  # it must be there before the ledger says so
        [before, *_] = place.ledger.steps(after=forgot.number - 2)
        undone = Step(
            number=number,
            phase="undo",
            request=request.id,
            model_before=place.current(),
            model_after=forgot.model_before,
            round=before.round,
            contributions=(),
            refused=0,
            seconds=0.0,
            device_seconds=0.0,
            bytes_down=0,
            bytes_up=0,
            measures={},
            at=place.clock(),
        )
        facts = {"failed": request.method, "why": stopped.reason}
        reason = None if left else f"{request.method} was undone: {stopped.reason}"[:1000]
        place.ledger.advance(
            request.id,
            of="recovering",
            to="forgetting" if left else "failed",
            kind="undone",
            method=left[0] if left else None,
            reason=reason,
            facts=facts,
            step=undone,
        )
        place.reached("recovering: undone")
        self.past.tidy()

    def _finish(
        self, request: Request, forgot: Step | None, rounds: list[Step], stopped: Stopped, presence: Presence
    ) -> None:
        """Remove what contained the data, make the receipt, and end the request."""
        place, model, end = self.place, self.place.current(), "done" if stopped.reached else "unrecovered"
        measures = self._measures(forgot, rounds)
        verified, traffic = self._verified(request, forgot, presence)
        if verified:
            measures["after"] |= verified
        gone = self.past.purge(request) if forgot else []
        remains = erase_messages(place.folder / DATABASE) if forgot else None
        messages = remains.facts() if remains else {}
        place.reached("recovering: purged")
        told = place.federation.forgetting
        outcome = Outcome(
            unlearned=forgot.model_after if forgot else model,
            model=model,
            status=end,
            exact=forgot is not None and self._plan(request)[1].traits.restarts,
            settings=self._plan(request)[0].method_options(),
            fallback=self._why_fallback(request),
            measures=measures,
            verdict=f"{stopped.reason}; {NOT_COMPARED}",
            thresholds={"tolerance": told.tolerance, "patience": float(told.patience)},
            purged=gone,
            kept={place.initial: "made before any data was seen"},
            messages=messages,
        )
        receipt = place.receipts.make(place.ledger, request.id, outcome, place.clock())
        facts = {
            "stopped": stopped.reason,
            "reached": stopped.reached,
            "rounds": len(rounds),
            "measures": measures,
            "removed": len(gone),
            "messages": messages,
            "verify_bytes_down": traffic.down,
            "verify_bytes_up": traffic.up,
            "receipt_missing": place.receipts.missing,
        }
        place.reached("recovering: receipt made")
        place.ledger.advance(
            request.id, of="recovering", to=end, kind=end, facts=facts, model_after=model, receipt=receipt
        )
        place.reached(f"{end}: committed")
        self.past.tidy()

    def _verified(self, request: Request, forgot: Step | None, presence: Presence) -> tuple[dict[str, float], Traffic]:
        """Return what the device measures on what it had forgotten, if the policy asks for it, and what that cost."""
        wanted = self.place.federation.forgetting.verify_on_device and forgot is not None
        if not wanted or request.subject not in presence.here:
            return {}, Traffic()
        return verify(self.place, self.training, request)

    def _measures(self, forgot: Step | None, rounds: list[Step]) -> dict[str, dict[str, float]]:
        """Return what was measured before, right after forgetting, and after recovery."""
        if forgot is None:
            return {}
        stages: dict[str, dict[str, float]] = {"before": {}, "unlearned": {}, "after": {}}
        for name, value in forgot.measures.items():
            stem, _, when = name.rpartition("_")
            stage = {"before": "before", "after": "unlearned"}.get(when)
            stages[stage or "unlearned"][stem if stage else name] = value
        if rounds:
            stages["after"] = {n: v for n, v in rounds[-1].measures.items() if n in ("accuracy", "loss")}
        return stages

    def _plan(self, request: Request) -> tuple[Settings, Method]:
        """Return the method that a request has come to.

        Raises:
            InputError: the policy does not name it any more.
        """
        able = chain(self.place.federation, request.granularity)
        for plan, method in able:
            if method.name == request.method:
                return plan, method
        raise InputError(
            f"request {request.id[:12]} is being served by {request.method}, which [forgetting] no longer names: "
            "name it again as method or fallback until the request is done"
        )

    def _why_fallback(self, request: Request) -> str:
        events = self.place.ledger.events(request=request.id)
        return "; ".join(f"{e.facts['failed']}: {e.facts['why']}" for e in events if e.kind in ("fallback", "undone"))
