"""The end of a request whose recovery is over: done, or unrecovered; or the step of its method is undone.

What contained the data is removed and the receipt is made before the request ends; neither, if the receipt would not be
true.
"""

from fedquit.client.training.build_method import options_of
from fedquit.errors import FedquitError
from fedquit.server.coordinator.participants.presence import Presence
from fedquit.server.coordinator.requests.evaluate_forgotten import verify
from fedquit.server.coordinator.requests.policy import methods_left, plan_of
from fedquit.server.coordinator.retention import Past
from fedquit.server.coordinator.training_rounds import Training
from fedquit.server.coordinator.workplace import DEFERRED, Workplace
from fedquit.server.ledger import Request, Step
from fedquit.server.message_store import DATABASE, erase_messages
from fedquit.server.receipts.make_receipt import Outcome, make_receipt
from fedquit.strategies.cost_log.cost_log import Traffic
from fedquit.strategies.guard.step_checks import Bounds
from fedquit.unlearning.stop_rules import Stopped

NO_KEY = "no receipt: no key"
IN_BACKUP = "a backup that was being made holds it"
NOT_COMPARED = "no model was retrained without the data to compare with"


class Ending:
    """Ends requests at one workplace."""

    def __init__(self, place: Workplace, past: Past, training: Training) -> None:
        self.place, self.past, self.training = place, past, training

    def end(
        self, request: Request, forgot: Step | None, rounds: list[Step], stopped: Stopped, presence: Presence
    ) -> None:
        """End a request whose recovery is over, or go back to the model before if recovery failed."""
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
        model = self.place.current()
        if self.place.ledger.is_descendant(request, model):
            return f"{request.method}: no device is left to train with, and the model is one that contained the data"
        if not plan_of(self.place.federation, request)[1].traits.restarts:
            return ""
        try:
            self.place.ledger.check_exact(request, model)
        except FedquitError as error:
            return f"{request.method}: {error}"
        return ""

    def _is_destroyed(self, request: Request, forgot: Step, rounds: list[Step], stopped: Stopped) -> bool:
        """Say whether a method destroyed the model, and recovery has not given it back.

        It has if it reached its goal in accuracy, or the accuracy is above the floor below which the guard refuses.
        """
        if not plan_of(self.place.federation, request)[1].traits.destroys:
            return False
        before = forgot.measures.get("accuracy_before")
        last = rounds[-1].measures.get("accuracy") if rounds else forgot.measures.get("accuracy_after")
        if before is None or last is None:
            return True  # nobody measured it
        return not stopped.reached and last < Bounds().accuracy * before

    def _undo(self, request: Request, forgot: Step, stopped: Stopped, presence: Presence) -> None:
        """Go back to the model before the step that forgot, and on to the next method; failed if there is none."""
        place, events = self.place, self.place.ledger.events(request=request.id)
        left = methods_left(place.federation, request, events, is_there=presence.has(request))
        place.models.load(forgot.model_before)  # it must be there before the ledger says so
        [before, *_] = place.ledger.steps(after=forgot.number - 2, limit=1)
        undone = Step(
            number=place.next_number(),
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
        gone, held = self.past.purge(request) if forgot else ([], [])
        remains = erase_messages(place.folder / DATABASE) if forgot else None
        messages = remains.facts() if remains else {}
        place.reached("recovering: purged")
        forgetting = place.federation.forgetting
        outcome = Outcome(
            unlearned=forgot.model_after if forgot else model,
            model=model,
            status=end,
            exact=forgot is not None and plan_of(self.place.federation, request)[1].traits.restarts,
            adopted=(adopted := self._adopted(request, forgot)),
            clip=forgetting.forget_clip if adopted != "none" else 0.0,
            noise=forgetting.forget_noise if adopted != "none" else 0.0,
            settings=options_of(plan_of(self.place.federation, request)[0]),
            fallback=self._why_fallback(request),
            measures=measures,
            verdict=f"{stopped.reason}; {NOT_COMPARED}",
            thresholds={"tolerance": forgetting.tolerance, "patience": float(forgetting.patience)},
            purged=gone,
            kept={place.initial: "made before any data was seen", **dict.fromkeys(held, IN_BACKUP)},
            messages=messages,
        )
        receipt, key, now = None, place.receipts_key, place.clock()
        if key is not None:
            receipt = make_receipt(
                place.ledger, request.id, federation=place.federation, key=key, outcome=outcome, now=now
            )
        facts = {
            "stopped": stopped.reason,
            "reached": stopped.reached,
            "rounds": len(rounds),
            "measures": measures,
            "removed": len(gone),
            "messages": messages,
            "verify_bytes_down": traffic.down,
            "verify_bytes_up": traffic.up,
            "receipt_missing": "" if key else NO_KEY,
        }
        place.reached("recovering: receipt made")
        place.ledger.advance(
            request.id, of="recovering", to=end, kind=end, facts=facts, model_after=model, receipt=receipt
        )
        place.reached(f"{end}: committed")
        self.past.tidy()

    def _adopted(self, request: Request, forgot: Step | None) -> str:
        """Return how other devices got the asking device's unlearned model; "none": no device returned one."""
        if forgot is None or not plan_of(self.place.federation, request)[1].traits.needs_device:
            return "none"
        waits = self.place.deferred() is not None
        return "deferred" if forgot.measures.get(DEFERRED) and not waits else "direct"

    def _verified(self, request: Request, forgot: Step | None, presence: Presence) -> tuple[dict[str, float], Traffic]:
        """Return what the device measures on what it had forgotten, if the policy asks for it, and what that cost."""
        wanted = self.place.federation.forgetting.verifies and forgot is not None
        if not wanted or request.subject not in presence.here:
            return {}, Traffic()
        reported = self.training.verification
        if reported and reported.is_of(request.id, self.place.next_number() - 1):
            return reported.metrics, Traffic()  # in the message of the last round's evaluation, whose cost it is
        return verify(self.place, self.training, request)

    def _measures(self, forgot: Step | None, rounds: list[Step]) -> dict[str, dict[str, float]]:
        """Return what was measured before, right after forgetting, and after recovery."""
        if forgot is None:
            return {}
        stages: dict[str, dict[str, float]] = {"before": {}, "unlearned": {}, "after": {}}
        for name, value in forgot.measures.items():
            if name == DEFERRED:
                continue
            stem, _, when = name.rpartition("_")
            stage = {"before": "before", "after": "unlearned"}.get(when)
            stages[stage or "unlearned"][stem if stage else name] = value
        if rounds:
            stages["after"] = {n: v for n, v in rounds[-1].measures.items() if n in ("accuracy", "loss")}
        return stages

    def _why_fallback(self, request: Request) -> str:
        events = self.place.ledger.events(request=request.id)
        return "; ".join(f"{e.facts['failed']}: {e.facts['why']}" for e in events if e.kind in ("fallback", "undone"))
