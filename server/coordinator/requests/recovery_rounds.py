"""The recovery of a request: rounds without what was forgotten, until the stop rule holds or no more are possible."""

from collections.abc import Sequence

from fedquit.errors import FedquitError
from fedquit.server.coordinator.participants.presence import Presence
from fedquit.server.coordinator.requests.attempts import Attempts
from fedquit.server.coordinator.requests.end_request import Ending
from fedquit.server.coordinator.requests.policy import plan_of
from fedquit.server.coordinator.training_rounds import Training
from fedquit.server.ledger import Request, Step
from fedquit.server.ledger.model_lineage import forget_step, recovery
from fedquit.server.lifecycle.recovery_plan import RecoveryPlan, stop_rule
from fedquit.server.lifecycle.rounds.train_round import correction
from fedquit.unlearning.stop_rules import Stopped


class Recovery:
    """Recovers the model after a request, at one workplace."""

    def __init__(self, training: Training, ending: Ending, attempts: Attempts) -> None:
        self.place, self.training, self.ending, self.attempts = training.place, training, ending, attempts

    def turn(self, request: Request, presence: Presence) -> bool:
        """Carry out a round of recovery, or end it; False: it must wait."""
        place, own = self.place, self.place.ledger.steps(request=request.id)
        forgot, rounds = forget_step(own, request), recovery(own, request)
        stopped = self._stopped(request, forgot, rounds, presence)
        if stopped:
            self.attempts.get_unstuck(request)
            self.ending.end(request, forgot, rounds, stopped, presence)
            return True
        if len(presence.ready) < max(1, self.training.rule(request).needs()):
            self.attempts.get_stuck(request)
            return False
        correct = correction(
            plan_of(place.federation, request)[1],
            lambda: place.state(request.model_before),
            lambda: place.state(forgot.model_after if forgot else place.initial),
            place.names,
        )
        try:
            self.training.step(presence, request, correct)
        except FedquitError as error:
            place.note("round-failed", request=request.id, facts={"reason": str(error)[:500]})
            self.attempts.get_stuck(request)
            self.attempts.pause(request)
            return False
        self.attempts.get_unstuck(request)
        return True

    def _stopped(
        self, request: Request, forgot: Step | None, rounds: Sequence[Step], presence: Presence
    ) -> Stopped | None:
        """Return why recovery ends now, or None."""
        policy = self.place.federation.forgetting
        if forgot is None:
            return Stopped("there was nothing to forget", reached=True)
        if not presence.devices:
            return Stopped("no device is left to recover with", reached=False)
        if self.place.clock() >= request.deadline:
            return Stopped(f"the deadline cut recovery short after {len(rounds)} round(s)", reached=False)
        if self.attempts.is_stuck(request):
            seconds = f"{policy.device_timeout:.0f} s"
            reason = f"no round of recovery could be carried out for {seconds}, after {len(rounds)} round(s)"
            return Stopped(reason, reached=False)
        lost = self._rounds_lost(request, forgot)
        plan = RecoveryPlan("utility", policy.recover_rounds, 0, policy.tolerance, policy.patience, lost)
        rule = stop_rule(plan, forgot.measures.get("accuracy_before"))
        stopped = rule.stop([step.measures.get("accuracy", 0.0) for step in rounds], 0)
        if stopped and stopped.reached and self.place.deferred() and len(rounds) < policy.recover_rounds:
            return None  # no round was adopted yet: what was measured is the model that no device may be sent
        return stopped

    def _rounds_lost(self, request: Request, forgot: Step) -> int:
        """Return how many rounds the model had beyond the one that the method went back to; 0: it did not go back."""
        if not plan_of(self.place.federation, request)[1].traits.restarts:
            return 0
        [before, *_] = self.place.ledger.steps(after=forgot.number - 2, limit=1)
        return max(0, before.round - forgot.round)
