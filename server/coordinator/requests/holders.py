"""Which devices hold what a request is about, and how many samples of it each is believed to hold."""

from collections import defaultdict

from fedquit.client.device.deployed_device import NOTHING_TO_FORGET
from fedquit.errors import AwayError, NothingToForgetError
from fedquit.server.coordinator.model_metrics import NOTHING_HELD
from fedquit.server.coordinator.participants.presence import Presence
from fedquit.server.coordinator.requests.request_config import request_config
from fedquit.server.coordinator.retention import Past
from fedquit.server.coordinator.training_rounds import Training
from fedquit.server.coordinator.workplace import Workplace
from fedquit.server.ledger import FORGOTTEN, Request
from fedquit.settings import Settings
from fedquit.strategies.rounds.evaluate import measure
from fedquit.unlearning.methods.base import Method


class Holders:
    """The holders of what requests are about, at one workplace."""

    def __init__(self, place: Workplace, past: Past, training: Training) -> None:
        self.place, self.past, self.training = place, past, training
        self._empty = defaultdict[str, set[int]](set)  # request -> devices that replied that they hold nothing of it

    def counts(self, request: Request, plan: Settings, method: Method, presence: Presence) -> dict[int, int]:
        """Return the devices with something to forget, and how many samples each: at most what it is believed to have.

        Raises:
            NothingToForgetError: no device has any.
            AwayError: no connected device has any, and one that is not connected may.
        """
        if request.granularity == "sample":
            return {request.subject: max(1, min(request.samples_count, self.past.size(request.subject)))}
        if request.granularity == "client":
            return {request.subject: self.past.size(request.subject)}
        if method.traits.runs_at == "server":  # it queries no device: every contributor may hold some
            return {member: self.past.size(member) for member in self.past.contributors()}
        found = self._found(request, plan, presence)
        unknown = self._contributors() - self._empty[request.id] - found.keys()
        if not method.traits.needs_device:  # each that has not denied it may hold some
            return {**{member: self.past.size(member) for member in unknown}, **found}
        if not found and not unknown:
            which = ", ".join(map(str, request.classes))
            raise NothingToForgetError(f"{NOTHING_TO_FORGET}: no device holds any of class {which}")
        if not found:
            raise AwayError(f"no device that is connected holds any of it, and {len(unknown)} may that are not")
        return found

    def without(self, request: Request) -> set[int]:
        """Return the devices that replied that they hold nothing of a class."""
        return set(self._empty[request.id])

    def _found(self, request: Request, plan: Settings, presence: Presence) -> dict[int, int]:
        """Query the connected devices for how many samples of a class they hold, and return those that hold some.

        A device that replied that it holds none is not queried again.
        """
        none = self._empty[request.id]

        def on_reply(member: int, refused: str | None) -> None:
            if refused and NOTHING_HELD in refused:
                none.add(member)

        config = {"samples": "forget", **request_config(self.training, request, plan)}
        arrays = self.place.models.load(self.place.sendable())
        queried = [member for member in presence.ready if member not in none]
        replies = measure(self.place.grid, queried, arrays, config, on_reply)
        return {member: min(count, self.past.size(member)) for member, count, _ in replies}

    def _contributors(self) -> set[int]:
        """Return who contributed to any step, except clients that were forgotten."""
        forgotten = self.place.ledger.request_lines(statuses=FORGOTTEN)
        return self.past.contributors() - {request.subject for request in forgotten if request.granularity == "client"}
