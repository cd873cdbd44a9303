"""The step that forgets: on the devices or at the server, as the method says, past the guard, and into the ledger."""

import time
from collections.abc import Mapping

from fedquit.client.device.deployed_device import NOTHING_TO_FORGET, REPORTED
from fedquit.errors import (
    AwayError,
    CannotForgetError,
    FedquitError,
    NoReplyError,
    NothingToForgetError,
    RefusedModelError,
    UnusableModelError,
)
from fedquit.server.coordinator.ledger_rounds import step_of
from fedquit.server.coordinator.model_metrics import ModelMetrics
from fedquit.server.coordinator.participants.presence import Presence
from fedquit.server.coordinator.participants.time_to_answer import time_to_answer
from fedquit.server.coordinator.requests.blame_method import blaming
from fedquit.server.coordinator.requests.holders import Holders
from fedquit.server.coordinator.requests.request_session import Sessions
from fedquit.server.coordinator.retention import Past
from fedquit.server.coordinator.training_rounds import Training
from fedquit.server.coordinator.workplace import DEFERRED, Workplace
from fedquit.server.ledger import Request
from fedquit.server.lifecycle.forget_and_admit import ForgetResult, forget_and_admit
from fedquit.server.lifecycle.grid_session import GridSession, served
from fedquit.server.lifecycle.rounds.deferred_step import is_deferred
from fedquit.server.lifecycle.rounds.finished_round import FinishedRound, finished_request
from fedquit.settings import Settings
from fedquit.strategies.rounds.aggregate import Config
from fedquit.unlearning.methods.base import Method
from fedquit.unlearning.tensors.convert import Arrays, StateDict, arrays_of


class ForgetStep:
    """Carries out the forget step of requests at one workplace."""

    def __init__(self, place: Workplace, past: Past, metrics: ModelMetrics, training: Training) -> None:
        self.place, self.past, self.metrics, self.training = place, past, metrics, training
        self.holders = Holders(place, past, training)
        self._sessions = Sessions(place, past, metrics, training)
        self.began_at = 0.0  # when devices were last sent a forget message, by `place.steady`

    def carry_out(self, request: Request, plan: Settings, method: Method, presence: Presence) -> None:
        """Have a method forget, and commit the outcome.

        Raises:
            NoReplyError: a device that is needed did not reply.
            RefusedModelError: the guard refused its model.
            CannotForgetError: the method cannot do it.
            NothingToForgetError: there is nothing to forget.
        """
        place, started = self.place, time.perf_counter()
        number, timeout = place.next_number(), place.federation.schedule.round_timeout
        place.reached("forgetting: begin")
        current = place.state(place.current())
        place.grid.begin("forget", number, presence.left_out)
        place.grid.patience = timeout
        keeping: Config = {"samples": "keep", **self.training.config()}
        gone = self.training.gone_classes()
        before = self.metrics.of(arrays_of(current), presence, keeping, gone)
        place.grid.patience, self.began_at = time_to_answer(place, request), place.steady()
        session, done = self._forgotten(request, plan, method, presence, current, number)
        if done.arrays is None:
            raise RefusedModelError(f"the guard refused the model: {done.decision.reason if done.decision else ''}")
        place.grid.patience, deferred = timeout, is_deferred(place.federation.forgetting.adopt, method)
        try:
            if deferred:  # no device may be sent the model, not even to evaluate it
                after = self.metrics.evaluate(done.arrays, gone)
            else:
                after = self.metrics.of(done.arrays, presence, keeping, gone)
        except UnusableModelError as error:
            raise CannotForgetError(str(error)) from error
        measures = {
            **{f"{name}_before": value for name, value in before.items()},
            **{f"{name}_after": value for name, value in after.items()},
            **_reported(session),
            **({DEFERRED: 1.0} if deferred else {}),
        }
        trained = place.rounds_trained() if done.restart_round is None else self._rounds_before(done.restart_round)
        seconds = time.perf_counter() - started
        finished = finished_request(place.grid, session, "forget", number, trained=trained, seconds=seconds)
        self._commit(request, method, done.arrays, finished, measures)

    def _commit(
        self,
        request: Request,
        method: Method,
        new: Arrays,
        finished: FinishedRound,
        measures: Mapping[str, float],
    ) -> None:
        """Write the model, then the step that names it, and with it the request's new state."""
        place, before = self.place, self.place.current()
        model = place.models.save(new)
        place.reached("forgetting: model written")
        if method.traits.restarts:
            self._check_restart(request, model)
        place.grid.costs.sync()
        step = step_of(place, finished, request=request, model_before=before, model_after=model, measures=measures)
        place.ledger.advance(
            request.id,
            of="forgetting",
            to="recovering",
            kind="forgot",
            step=step,
            model_before=before,
            model_after=model,
        )
        place.reached("recovering: committed")
        self.past.tidy()

    def _forgotten(
        self, request: Request, plan: Settings, method: Method, presence: Presence, current: StateDict, number: int
    ) -> tuple[GridSession, ForgetResult]:
        """Have the method serve the request; its model is quarantined until the guard has decided."""
        place, name = self.place, ""
        with blaming(method):
            counts = self.holders.counts(request, plan, method, presence)
            guard = self._sessions.guard(request, method, counts)
            session = self._sessions.open(request, plan, presence, current, number, counts, guard)

        def serve(method: Method, session: GridSession) -> Arrays:
            with blaming(method):
                return _served(request, method, session)

        def hold(new: Arrays) -> None:
            nonlocal name
            place.reached("forgetting: replies")
            revoked = [member for member in sorted(session.answered) if place.ledger.member(member).status == "revoked"]
            if revoked:
                raise AwayError(f"the key of member {revoked[0]} was revoked while it forgot")
            name = place.quarantine.save(new)
            place.reached("forgetting: quarantined")

        done = forget_and_admit(method, session, guard, serve=serve, hold=hold)
        document = done.decision.document() if done.decision else {}
        facts = {"model": name, "method": method.name, "policy": guard.policy.guard, **document}
        place.note("quarantined", request=request.id, member=request.subject, facts=facts)
        place.reached("forgetting: decided")
        return session, done

    def _check_restart(self, request: Request, model: str) -> None:
        """Check that a model which a method went back to never met the data of a request.

        Raises:
            CannotForgetError: it did, or no step of the ledger made it.
        """
        try:
            if not self.place.ledger.is_known(model):
                raise FedquitError(f"model {model[:12]} was never the federation's")
            self.place.ledger.check_exact(request, model)
        except FedquitError as error:
            raise CannotForgetError(f"the model it goes back to cannot be used: {error}") from error

    def _rounds_before(self, number: int) -> int:
        """Return how many rounds the model has been trained for that step `number` began with."""
        steps = self.place.ledger.steps(after=number - 1, limit=1)
        return steps[0].round - 1 if number > 1 and steps else 0


def _served(request: Request, method: Method, session: GridSession) -> Arrays:
    """Have the method serve the request.

    Raises:
        NothingToForgetError: the device that asked has nothing to forget.
    """
    try:
        return served(method, session)
    except NoReplyError as error:
        own = [why for why in session.reasons if why.startswith(f"client {request.subject}:")]
        if request.granularity == "sample" and any(NOTHING_TO_FORGET in why for why in own):
            raise NothingToForgetError(own[-1]) from error
        raise


def _reported(session: GridSession) -> dict[str, float]:
    """Return the metrics that devices report of the forgotten samples, weighted by the number of those.

    Other names are ignored: a device could fill the log with them.
    """
    sums: dict[str, float] = {}
    weights: dict[str, int] = {}
    for _, reply in sorted(session.answered.items()):
        for name, value in reply.metrics.items():
            if name in REPORTED:
                sums[name] = sums.get(name, 0.0) + value * reply.num_examples
                weights[name] = weights.get(name, 0) + reply.num_examples
    return {name.replace("-", "_"): value / weights[name] for name, value in sums.items()}
