"""Rounds of training and of recovery: who is asked, what they are told, and the step that the ledger gets."""

import shutil
from collections.abc import Callable, Mapping

from fedquit.client.requests.signed_request import Signed
from fedquit.errors import FedquitError
from fedquit.server.coordinator.model_evaluation import Evaluator
from fedquit.server.coordinator.participants.excluded_devices import FOUND, kept_out
from fedquit.server.coordinator.participants.presence import Presence
from fedquit.server.coordinator.participants.unused_replies import noted
from fedquit.server.coordinator.retention import Past
from fedquit.server.coordinator.workplace import Workplace
from fedquit.server.ledger import ENDS, FORGOTTEN, UNDER_WAY, Contribution, Request, Step
from fedquit.server.lifecycle.observed_rounds import WINDOW, ObservedRound, round_limits
from fedquit.server.lifecycle.train_round import Callbacks, Order, Trained, train_round
from fedquit.strategies.cost_log.cost_rows import DIRECTIONS
from fedquit.strategies.guard.round_screen import Limits
from fedquit.strategies.rounds.train import Correct
from fedquit.unlearning.tensors.convert import Arrays, tensors_of

REPLIES = "replies"
"""Folder of a round's replies while they come."""
LISTED = 50
"""Ids of requests that devices are told of in a message."""


class Training:
    """Carries rounds out and commits them."""

    def __init__(self, place: Workplace, past: Past, evaluator: Evaluator) -> None:
        self.place, self.past, self.evaluator = place, past, evaluator
        self._answers: dict[str, str] = {}
        shutil.rmtree(place.folder / REPLIES, ignore_errors=True)  # of a round in which a coordinator was killed

    def config(self) -> dict[str, float | str]:
        """Return what every device is told in every message: how many requests are begun, and which are known.

        And what became of asks that rode in replies, by their ids: a code of a refusal, or "taken".
        """
        requests = self.place.ledger.requests()
        begun = [request for request in requests if request.status not in ("asked", "refused")]
        ended = [request.id for request in requests if request.status in ENDS]
        return {
            "requests": len(begun),
            "taken": ",".join([request.id for request in requests][-LISTED:]),
            "settled": ",".join(ended[-LISTED:]),
            "answers": ",".join([f"{ask}:{answer}" for ask, answer in self._answers.items()][-LISTED:]),
        }

    def gone_classes(self) -> set[int]:
        """Return the classes that were asked to be forgotten."""
        requests = self.place.ledger.requests()
        return {c for r in requests if r.status in (*UNDER_WAY, *FORGOTTEN) for c in r.classes}

    def step(self, presence: Presence, request: Request | None = None, correct: Correct | None = None) -> Step:
        """Carry out one round of training, or of a request's recovery, and commit it.

        Raises:
            FedquitError: too few replies can be used; nothing is committed.
        """
        place, phase = self.place, "recover" if request else "train"
        number, round_number, before = place.next_number(), place.rounds_trained() + 1, place.current()
        place.reached(f"{phase}: begin")
        arrays = place.models.load(before)
        rule = place.rules.recovery if request else place.rules.training
        place.grid.begin(phase, number, presence.left_out | kept_out(place, presence, rule.needs(), phase))
        place.grid.patience = place.federation.schedule.round_timeout
        round_state, nth = place.round_state(phase, request.id if request else None)
        observed = self._observed(phase, number, arrays)
        done = train_round(
            place.grid,
            self._order(phase, number, nth, round_number, request),
            arrays,
            round_state,
            objective=place.objective,
            rule=rule,
            names=place.names,
            correct=correct,
            callbacks=Callbacks(self.on_reply(phase, number), observed.take, self._on_ask),
            limits=self._limits(phase, number, arrays),
        )
        place.reached(f"{phase}: replies")
        return self._commit(done, nth, presence, request, number, round_number, before, observed.statistics())

    def _commit(
        self,
        done: Trained,
        nth: int,
        presence: Presence,
        request: Request | None,
        number: int,
        round_number: int,
        before: str,
        spread: Mapping[str, float],
    ) -> Step:
        place, phase = self.place, "recover" if request else "train"
        errors = {f"compression_error_{way}": place.grid.compression_error(way) for way in DIRECTIONS}
        coded = {name: error for name, error in errors.items() if error is not None}
        measures = {**({"train_loss": done.loss} if done.adopted else {}), **spread, **coded, **done.measures}
        if done.found is not None:
            measures[f"{FOUND}{done.found}"] = 1.0
        if not done.adopted:
            place.note(
                "round-not-adopted",
                request=request.id if request else None,
                facts={"phase": phase, "step": number, "reason": done.off[:500]},
            )
        if request or self.evaluator.trusted is not None:
            config = {"samples": "keep", **self.config()}
            measures |= self.evaluator.measure(done.arrays, presence, config, self.gone_classes())
        place.keep(number, done.state, nth)
        model = place.models.save(done.arrays) if done.adopted else before
        place.reached(f"{phase}: model written")
        traffic, evaluation_traffic = place.grid.costs.of(phase, number), place.grid.costs.of("evaluate", number)
        place.grid.costs.sync()
        step = Step(
            number=number,
            phase=phase,
            request=request.id if request else None,
            model_before=before,
            model_after=model,
            round=round_number if done.adopted else round_number - 1,
            contributions=tuple(Contribution(m, count, digest) for m, (count, digest) in done.taken.items()),
            refused=done.refused,
            seconds=done.seconds,
            device_seconds=done.device_seconds,
            bytes_down=traffic.down + evaluation_traffic.down,
            bytes_up=traffic.up + evaluation_traffic.up,
            measures=measures,
            at=place.clock(),
        )
        place.ledger.add_step(step, kind="recovered" if request else "round")
        place.reached(f"{phase}: committed")
        self.past.updates.end(number)
        self.past.tidy()
        place.reached(f"{phase}: tidied")
        return step

    def _limits(self, phase: str, number: int, arrays: Arrays) -> Limits:
        """Return how much one reply may do to a round, from what the ledger has of the rounds before."""
        place = self.place
        recent = [step for step in place.ledger.steps(after=max(0, number - 1 - WINDOW)) if step.phase != "forget"]
        return round_limits(
            place.settings,
            place.folder / REPLIES,
            [step.measures for step in recent],
            self.past.sizes(),
            self.evaluator.look(arrays, self.gone_classes()),
            lambda member, facts: place.note(
                "reply-bounded", member=member, facts={"phase": phase, "step": number, **facts}
            ),
        )

    def _order(self, phase: str, number: int, nth: int, round_number: int, request: Request | None) -> Order:
        place = self.place
        seed = place.seeds(request).recovery if request else place.settings.seed
        return Order(
            phase=phase,
            number=number,
            nth=nth,
            seed=seed,
            lr=place.lr(round_number),
            config={"phase": phase, "samples": "keep", **self.config()},
            fraction=place.settings.fraction,
        )

    def _observed(self, phase: str, number: int, arrays: Arrays) -> ObservedRound:
        """Return what takes in a round's replies, and keeps the updates of training if a method needs them."""
        sent, updates = tensors_of(arrays), self.past.updates
        if phase == "train":
            updates.begin(number, sent)
        keeps = phase == "train" and updates.keep.updates(number) and self._has_room()
        return ObservedRound(sent, self.place.names, history=updates if keeps else None, number=number)

    def on_reply(self, phase: str, number: int, request: str | None = None) -> Callable[[int, str | None], None]:
        """Return what names in the audit log every reply that is not used, and every device that did not answer."""
        return noted(self.place, phase, number, request)

    def _on_ask(self, member: int, ask: bytes, signature: bytes) -> None:
        """Take an ask that rode in a reply, and remember what its device is to be told.

        That is forgotten with the process: an ask that nothing is said of rides again. Nothing is said of one that
        nobody proves to have made, lest another's be stopped with it.
        """
        answer = "taken"
        try:
            self.place.admit(ask, signature)
        except FedquitError as refusal:
            self.place.note("ask-in-reply-refused", member=member, facts={"reason": str(refusal)[:500]})
            if getattr(refusal, "member", None) is None:
                return
            answer = str(getattr(refusal, "code", "refused"))
        self._answers[Signed(ask, signature).id] = answer

    def _has_room(self) -> bool:
        used = sum(file.stat().st_size for file in self.past.updates.path.rglob("*.safetensors"))
        return used < self.place.settings.history_bytes
