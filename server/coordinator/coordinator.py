"""The loop of a deployed federation: at each boundary between rounds it serves a request that is ready, or trains.

Before either, devices that were away when something was forgotten must drop it.

Every turn ends in at most one transaction of the ledger. What a turn does follows from the ledger, the models that it
names and which devices are connected; so a coordinator that was killed resumes from there.
"""

import math

from fedquit.errors import FedquitError
from fedquit.server.coordinator.model_metrics import ModelMetrics
from fedquit.server.coordinator.participants.catching_up import CatchingUp
from fedquit.server.coordinator.participants.presence import Presence, Watch
from fedquit.server.coordinator.participants.time_to_answer import note_jump, note_outage
from fedquit.server.coordinator.requests.policy import is_near, methods
from fedquit.server.coordinator.requests.request_steps import RequestSteps
from fedquit.server.coordinator.retention import Past
from fedquit.server.coordinator.training_rounds import Training
from fedquit.server.coordinator.workplace import Workplace
from fedquit.server.ledger import Request

POLL = 1.0
"""Seconds between polls of the ledger and the grid while there is nothing to do."""
AFTER_FAILURE = 60.0
"""Seconds at most until a round that failed is tried again."""
JUMP = 60.0
"""A clock that is set by at least this many seconds is noted in the log."""


class Coordinator:
    """Trains, forgets and recovers at one workplace.

    Args:
        place: the workplace.
    """

    def __init__(self, place: Workplace) -> None:
        self.place = place
        self.past = Past(place, methods(place.federation))
        metrics = ModelMetrics(place)
        self.training = Training(place, self.past, metrics)
        self.requests = RequestSteps(place, self.past, metrics, self.training)
        self.catching_up = CatchingUp(self.training)
        self._watch = Watch(place)
        self._not_before = -math.inf
        self._next: tuple[int, float] | None = None  # after which step, and when by `place.steady`
        self._offset = place.clock() - place.steady()
        self._said: set[tuple[str, str]] = set()
        note_outage(place)
        self.past.tidy()

    def run(self) -> None:
        """Work until the process ends."""
        while True:
            if not self.turn():
                self.place.pause(POLL)

    def turn(self) -> bool:
        """Carry out one turn; False: there is nothing to do, or it must wait."""
        self._note_jump()
        presence = self._watch.look()
        self._note_deadlines()
        if self.catching_up.turn(presence):
            return True
        request = self.requests.next(presence)
        return self.requests.turn(request, presence) if request else self._train(presence)

    def _train(self, presence: Presence) -> bool:
        """Carry out a round if its time has come and enough devices are connected."""
        place, schedule = self.place, self.place.federation.schedule
        began = place.steady()
        if began < max(self._due(), self._not_before):
            return False
        if not self._enough(presence):
            return False
        try:
            self.training.step(presence)
        except FedquitError as error:
            place.note("round-failed", facts={"reason": str(error)[:500]})
            self._not_before = began + min(AFTER_FAILURE, schedule.every)
            return False
        self.past.steps()
        if self.past.last_round:
            self._next = (self.past.last_round.number, began + schedule.every)
        return True

    def _due(self) -> float:
        """Return when the next round of training begins, by `place.steady`; infinity if there is none.

        The clock counts only after a restart; a last round in its future then counts as one that ends now.
        """
        self.past.steps()
        place, schedule, last = self.place, self.place.federation.schedule, self.past.last_round
        if schedule.rounds and self.past.rounds >= schedule.rounds:
            return math.inf
        if last is None:
            return -math.inf
        if self._next is None or self._next[0] != last.number:
            now = place.clock()
            wait = min(last.at, now) - last.seconds + schedule.every - now
            self._next = (last.number, place.steady() + wait)
        return self._next[1]

    def _note_jump(self) -> None:
        """Note in the log, once, that the clock was set."""
        offset = self.place.clock() - self.place.steady()
        if abs(offset - self._offset) >= JUMP:
            self.place.note("clock-set", facts={"seconds": round(offset - self._offset)})
            note_jump(self.place, offset - self._offset)
            self._offset = offset

    def _enough(self, presence: Presence) -> bool:
        """Say whether enough devices are connected; if not, note it in the log once."""
        wanted = max(self.place.federation.schedule.min_clients, self.place.rules.training.needs())
        enough = len(presence.ready) >= wanted
        if not enough and ("waiting", "") not in self._said:
            self.place.note("waiting", facts={"connected": len(presence.ready), "wanted": wanted})
        (self._said.discard if enough else self._said.add)(("waiting", ""))
        return enough

    def _note_deadlines(self) -> None:
        """Note in the log, once for each request, that its deadline is near, and that it is past."""
        now = self.place.clock()
        for status in ("asked", "forgetting", "recovering"):
            for request in self.place.ledger.requests(status=status):
                if is_near(request, now):
                    self._note_once("deadline-near", request)
                if now >= request.deadline:
                    self._note_once("deadline-past", request)

    def _note_once(self, kind: str, request: Request) -> None:
        if (kind, request.id) in self._said:
            return
        self._said.add((kind, request.id))
        if all(event.kind != kind for event in self.place.ledger.events(request=request.id)):
            self.place.note(kind, request=request.id, member=request.subject, facts={"deadline": request.deadline})
