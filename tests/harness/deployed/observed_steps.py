"""The steps of a request in a deployment of real processes, as they can be seen from outside while it runs.

In the ledger, in the records of two devices and among the processes; nothing in what runs knows of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedquit.client.device.record import Record
from fedquit.server.ledger import Ledger
from tests.harness.deployment import Deployment

ASKER, OTHER = "north", "east"
"""The device that asks, and one that does not."""


def home_of(deployment: Deployment) -> Path:
    """Return where the Flower of the asking device keeps its things."""
    return deployment.kits[ASKER].folder / "flower"


@dataclass(frozen=True, slots=True)
class Seen:
    """What can be seen from outside of a deployment and of the request `id`."""

    deployment: Deployment
    ledger: Ledger
    record: Record
    other: Record
    id: str

    def status(self) -> str:
        """Return where the request is; "": the server does not have it."""
        return next((request.status for request in self.ledger.requests() if request.id == self.id), "")

    def recovered(self) -> bool:
        """Say whether its round of recovery is committed."""
        return bool(self.ledger.steps(request=self.id, phase="recover"))

    def retired(self) -> bool:
        """Say whether the device has retired what is to be forgotten."""
        mark = self.record.marked(self.id)
        return mark is not None and mark.retired_at is not None

    def answered(self) -> bool:
        """Say whether the device has kept its reply."""
        return bool(self.record.database.read("SELECT 1 FROM replies WHERE request = ?", self.id))

    def trained(self) -> bool:
        """Say whether another device has trained the model that the federation is at."""
        last = self.ledger.last_step()
        return last is not None and any(
            done.phase == "recover" and done.model_in == last.model_after for done in self.other.rounds()
        )

    def at_work(self) -> bool:
        """Say whether the asking device works on a message."""
        return bool(self.deployment.processes("ClientApp", home=home_of(self.deployment)))

    def asking(self) -> bool:
        """Say whether the command that asks runs, and has kept the ask that it sends."""
        commands = self.deployment.processes("forget")
        return bool(commands) and (self.deployment.kits[ASKER].folder / "asks" / f"{self.id}.waiting").exists()


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a request.

    Attributes:
        name: for people.
        here: says whether the request is there.
        held: a part that is stopped before the ask, for else the step is over too soon.
        whole: the request is about all of the device, not some samples.
    """

    name: str
    here: Callable[[Seen], bool]
    held: str = ""
    whole: bool = False


def _unlearns(seen: Seen) -> bool:
    return seen.status() == "forgetting" and seen.retired() and not seen.answered()


STEPS = (
    Step("the ask is on its way", lambda s: not s.status() and s.asking(), "forget service"),
    Step("asked", lambda s: s.status() == "asked", "ServerApp"),
    Step("forgetting: begun", lambda s: s.status() == "forgetting" and not s.at_work() and not s.retired()),
    Step(
        "forgetting: the device has the message",
        lambda s: s.status() == "forgetting" and s.at_work() and not s.retired(),
    ),
    Step("forgetting: the device unlearns", _unlearns),
    Step("forgetting: the device has answered", lambda s: s.status() == "forgetting" and s.answered()),
    Step("verifying", lambda s: s.status() == "recovering" and s.recovered() and s.at_work()),
    Step("done", lambda s: s.status() == "done"),
    Step("recovering: begun", lambda s: s.status() == "recovering" and not s.trained() and not s.at_work()),
    Step("recovering: another device has trained", lambda s: s.status() == "recovering" and s.trained()),
    Step("all of the device: it unlearns", _unlearns, whole=True),
)
"""In the order in which they are tried: last those at which a kill may change who takes part."""
