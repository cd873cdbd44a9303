"""Rounds of training and of recovery: which devices take part, what they are sent, and what the ledger gets."""

import shutil
from collections.abc import Callable

from fedquit.client.requests.signed_request import Signed
from fedquit.errors import FedquitError
from fedquit.server.coordinator.ledger_rounds import REPLIES, LedgerRounds
from fedquit.server.coordinator.model_metrics import ModelMetrics
from fedquit.server.coordinator.participants.excluded_devices import kept_out
from fedquit.server.coordinator.participants.presence import LISTED, Presence
from fedquit.server.coordinator.participants.unused_replies import noted
from fedquit.server.coordinator.requests.policy import plan_of
from fedquit.server.coordinator.retention import Past
from fedquit.server.coordinator.verification import Verification
from fedquit.server.coordinator.workplace import Workplace
from fedquit.server.ledger import ENDS, FORGOTTEN, UNDER_WAY, Request
from fedquit.server.lifecycle.rounds.carry_out_round import RoundPlan, Rounds
from fedquit.server.lifecycle.rounds.deferred_step import DeferredStep
from fedquit.server.lifecycle.rounds.round_order import round_order
from fedquit.server.lifecycle.rounds.train_round import Callbacks, Trained
from fedquit.strategies.rounds.aggregate import Config
from fedquit.strategies.rounds.train import Correct
from fedquit.strategies.rules import FlowerRule


class Training:
    """Carries out rounds and commits them.

    Attributes:
        verification: what the device that asked was to report of the last round's model; None: nothing.
    """

    def __init__(self, place: Workplace, past: Past, metrics: ModelMetrics) -> None:
        self.place, self.past, self.metrics = place, past, metrics
        self._rounds = Rounds(place.grid, place.settings, place.objective, frozenset(place.names))
        self._outcomes: dict[str, str] = {}
        self.verification: Verification | None = None
        shutil.rmtree(place.folder / REPLIES, ignore_errors=True)  # of a round in which a coordinator was killed

    def config(self) -> dict[str, float | str]:
        """Return what every message to a device carries: how many requests have begun, and which ones are known.

        `answers` has for each request that came in a reply, by its id, the code of its refusal or "taken".
        """
        ledger = self.place.ledger
        begun = [count for status, count in ledger.requests_by_status().items() if status not in ("asked", "refused")]
        ended = ledger.request_lines(statuses=ENDS, newest=LISTED)
        return {
            "requests": sum(begun),
            "taken": ",".join(request.id for request in ledger.request_lines(newest=LISTED)),
            "settled": ",".join(request.id for request in ended),
            "answers": ",".join([f"{id_}:{outcome}" for id_, outcome in self._outcomes.items()][-LISTED:]),
        }

    def gone_classes(self) -> set[int]:
        """Return the classes of all requests that have begun."""
        begun = self.place.ledger.request_lines(statuses=(*UNDER_WAY, *FORGOTTEN))
        return {label for request in begun for label in request.classes}

    def step(self, presence: Presence, request: Request | None = None, correct: Correct | None = None) -> None:
        """Carry out one round of training, or of a request's recovery, and commit it.

        Raises:
            FedquitError: too few replies can be used; nothing is committed.
        """
        place, phase = self.place, "recover" if request else "train"
        number, store = place.next_number(), LedgerRounds(place, self.past, phase, request)
        place.reached(f"{phase}: begin")
        place.grid.patience = place.federation.schedule.round_timeout
        self._rounds.carry_out(self._plan(presence, request, correct, number, store), store)
        self.past.tidy()
        place.reached(f"{phase}: tidied")

    def rule(self, request: Request | None) -> FlowerRule:
        """Return the rule of rounds of a request's recovery; None: of training."""
        return self.place.rules.after(plan_of(self.place.federation, request)[1] if request else None)

    def _plan(
        self, presence: Presence, request: Request | None, correct: Correct | None, number: int, store: LedgerRounds
    ) -> RoundPlan:
        place, phase, trains = self.place, store.phase, request is None
        rule, updates = self.rule(request), self.past.updates
        order = round_order(
            place.settings,
            phase,
            number,
            nth=store.nth(),
            seed=place.seeds(request).recovery if request else place.settings.seed,
            trained=place.rounds_trained(),
            config={"phase": phase, "samples": "keep", **self.config()},
            own=presence.retired(),
        )
        return RoundPlan(
            order,
            trained=place.rounds_trained() + 1,
            rule=rule,
            evaluate=lambda done: self._evaluate(done, presence, request, number),
            left_out=presence.left_out | kept_out(place, presence, rule.needs(), phase),
            correct=correct,
            history=updates if trains else None,
            keeps_updates=trains and updates.keep.updates(number) and self._has_room(),
            screen=self.metrics.evaluator(self.gone_classes()),
            deferred=None if trains else self._deferred(),
            callbacks=Callbacks(
                self.on_reply(phase, number),
                on_ask=self._on_ask,
                on_bounded=lambda member, facts: place.note(
                    "reply-bounded", member=member, facts={"phase": phase, "step": number, **facts}
                ),
            ),
        )

    def _deferred(self) -> DeferredStep | None:
        """Return the step that forgot, if it waits for a round of recovery."""
        place, waiting = self.place, self.place.deferred()
        if waiting is None:
            return None
        return DeferredStep(place.state(waiting.model_before), place.state(waiting.model_after), place.names)

    def _evaluate(self, done: Trained, presence: Presence, request: Request | None, number: int) -> dict[str, float]:
        """Return the metrics of a round's model, as far as a decision needs them or the server has samples."""
        place, phase = self.place, "recover" if request else "train"
        place.reached(f"{phase}: replies")
        if not done.adopted:
            facts = {"phase": phase, "step": number, "reason": done.off[:500]}
            place.note("round-not-adopted", request=request.id if request else None, facts=facts)
        self.verification = None
        if request is None and self.metrics.trusted is None:
            return {}
        if not done.adopted and place.deferred():  # no device may be sent that model, not even to evaluate it
            return self.metrics.evaluate(done.arrays, self.gone_classes())
        verifies = request and done.adopted and place.federation.forgetting.verifies
        if request and verifies and request.subject in presence.ready:
            self.verification = Verification.of(request, number)
        config: Config = {"samples": "keep", **self.config()}
        return self.metrics.of(done.arrays, presence, config, self.gone_classes(), self.verification)

    def on_reply(self, phase: str, number: int, request: str | None = None) -> Callable[[int, str | None], None]:
        """Return what names in the audit log every reply that is not used, and every device that did not reply."""
        return noted(self.place, phase, number, request)

    def _on_ask(self, member: int, ask: bytes, signature: bytes) -> None:
        """Take a request that came in a reply, and remember the outcome for the device's next message.

        The outcome is lost with the process; the device then sends its request again. A request whose sender is not
        proven has no outcome, so that nobody can stop another device's request with it.
        """
        outcome = "taken"
        try:
            self.place.admit(ask, signature)
        except FedquitError as refusal:
            self.place.note("ask-in-reply-refused", member=member, facts={"reason": str(refusal)[:500]})
            if getattr(refusal, "member", None) is None:
                return
            outcome = str(getattr(refusal, "code", "refused"))
        self._outcomes[Signed(ask, signature).id] = outcome

    def _has_room(self) -> bool:
        used = sum(file.stat().st_size for file in self.past.updates.path.rglob("*.safetensors"))
        return used < self.place.settings.history_bytes
