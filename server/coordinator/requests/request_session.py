"""The session of a request in a deployment: what its method may use, and the guard of what it makes."""

from collections.abc import Mapping

from fedquit.server.coordinator.model_metrics import ModelMetrics
from fedquit.server.coordinator.participants.presence import Presence
from fedquit.server.coordinator.requests.request_config import request_config
from fedquit.server.coordinator.retention import Past
from fedquit.server.coordinator.training_rounds import Training
from fedquit.server.coordinator.workplace import Workplace
from fedquit.server.ledger import Request
from fedquit.server.lifecycle.forget_and_admit import Guard
from fedquit.server.lifecycle.grid_session import Case, GridSession
from fedquit.server.lifecycle.rounds.observed_rounds import recent_rounds
from fedquit.server.lifecycle.rounds.round_order import learning_rate
from fedquit.settings import Settings
from fedquit.strategies.guard.decide import Policy
from fedquit.strategies.guard.step_checks import Recent, bounds_of
from fedquit.unlearning.methods.base import Method
from fedquit.unlearning.tensors.convert import StateDict


class Sessions:
    """Opens the sessions of requests at one workplace."""

    def __init__(self, place: Workplace, past: Past, metrics: ModelMetrics, training: Training) -> None:
        self.place, self.past, self.metrics, self.training = place, past, metrics, training

    def open(
        self,
        request: Request,
        plan: Settings,
        presence: Presence,
        current: StateDict,
        number: int,
        counts: Mapping[int, int],
        guard: Guard,
    ) -> GridSession:
        """Return the session in which a method serves a request.

        Args:
            request: which.
            plan: the settings of the method.
            presence: which devices are connected.
            current: the model that the request starts from.
            number: of the step.
            counts: devices with something to forget -> number of samples.
            guard: checks each reply.
        """
        place = self.place
        forgotten = tuple(sorted(counts))
        remaining = tuple(member for member in presence.ready if member not in forgotten)
        case = Case(
            forgotten=forgotten,
            remaining=remaining,
            num_examples={**{member: self.past.size(member) for member in remaining}, **counts},
            seeds=place.seeds(request),
            config=request_config(self.training, request, plan),
            own=presence.retired(),
            proxy=lambda: self.metrics.trusted,
        )
        return GridSession(
            place.grid,
            place.settings,
            case,
            initial=place.state(place.initial),
            current=current,
            history=self.past.session_history(),
            lr=learning_rate(place.settings, place.rounds_trained() + 1),
            on_reply=self.training.on_reply("forget", number, request.id),
            check=guard.check,
        )

    def guard(self, request: Request, method: Method, counts: Mapping[int, int]) -> Guard:
        """Return the guard of a request; `counts` as in `open`."""
        place, policy = self.place, self.place.federation.forgetting
        bounds = bounds_of(
            method,
            place.names,
            counts.values(),
            request.classes,
            exact=place.grid.compression.exact,
            clip=policy.forget_clip,
            noise=policy.forget_noise,
        )
        evaluator = self.metrics.evaluator(self.training.gone_classes())
        return Guard(self._recent(), bounds, Policy(policy.guard, policy.blend), evaluator.accuracy)

    def _recent(self) -> Recent:
        """Return what the guard compares a model with: the last steps whose models are still there."""
        place, steps = self.place, self.past.recent()
        models = ((place.state(step.model_before), place.state(step.model_after)) for step in steps)
        return recent_rounds([step.measures for step in steps], self.past.longest(), models, place.order)
