"""Who is connected, who may take part, and who must first drop what a request was about."""

from collections.abc import Set
from dataclasses import dataclass, field

from fedquit.server.coordinator.workplace import Workplace
from fedquit.server.ledger import FORGOTTEN, UNDER_WAY, Request, RequestState
from fedquit.server.serve.last_look import Looks
from fedquit.strategies.grid.node_identity import Member as Node

BEGUN = (*UNDER_WAY, *FORGOTTEN)
LISTED = 50
"""At most this many ids of requests are in a list of a message, the newest."""


@dataclass(frozen=True, slots=True)
class Presence:
    """Members by number, at one moment.

    Attributes:
        devices: that are enrolled, have not withdrawn, and whose key is not revoked.
        here: members that are connected, withdrawn ones included.
        owing: devices that must still drop what some request was about -> those requests.
        leaving: devices that are to forget samples and have not yet; until then they do not train.
        dropped: requests whose data devices drop, in their order, and who has so far.
    """

    devices: frozenset[int] = frozenset()
    here: frozenset[int] = frozenset()
    owing: dict[int, tuple[RequestState, ...]] = field(default_factory=dict)
    leaving: frozenset[int] = frozenset()
    dropped: tuple[tuple[RequestState, Set[int]], ...] = ()

    @property
    def ready(self) -> tuple[int, ...]:
        """Those that can take part now."""
        return tuple(sorted((self.devices & self.here) - self.owing.keys() - self.leaving))

    def has(self, request: Request) -> bool:
        """Say whether the device that a request is about is connected; a class belongs to no single device."""
        return request.granularity != "class" and request.subject in self.here

    @property
    def left_out(self) -> frozenset[int]:
        """Those that are connected and take no part."""
        return self.here - set(self.ready)

    def retired(self) -> dict[int, dict[str, str]]:
        """Return what devices are reminded of: what they have dropped, so that one with an older record notices.

        Of each device the newest `LISTED` requests. It is for when a round begins: a look need not know it.
        """
        newest: dict[int, list[str]] = {}
        for request, known in reversed(self.dropped):
            entry = ":".join((request.id, *map(str, request.classes)))
            for member in _concerned(request, self.devices) & known:
                held = newest.setdefault(member, [])
                if len(held) < LISTED:
                    held.append(entry)
        return {member: {"retired": ",".join(reversed(held))} for member, held in newest.items()}


class Watch:
    """Watches which devices are connected; strangers are named in the audit log once."""

    def __init__(self, place: Workplace) -> None:
        self._place, self._looks = place, Looks(place.folder)
        self._strangers: set[str] = set()
        self._dropped: dict[str, set[int]] = {}

    def look(self) -> Presence:
        """Return which devices are connected now, and register them with the grid."""
        place = self._place
        enrolled = [member for member in place.ledger.members() if member.role == "device"]
        members = [member for member in enrolled if member.status != "revoked"]  # who gets no work
        revoked = {member.fingerprint for member in enrolled} - {member.fingerprint for member in members}
        present = place.grid.meet({member.fingerprint: Node(member.number) for member in members})
        for key in sorted(present.strangers - self._strangers - revoked):
            place.note("stranger", facts={"fingerprint": key or "none"})
        self._strangers |= present.strangers
        devices = frozenset(member.number for member in members if member.status == "active")
        here = frozenset(member.client for member in present.members.values())
        self._looks.note(here, place.clock(), place.steady())
        waiting = place.ledger.requests(status="forgetting")
        leaving = frozenset(request.subject for request in waiting if request.granularity == "sample")
        owing, gone = self._owing(devices)
        return Presence(devices, here, owing, leaving, gone)

    def _owing(
        self, devices: frozenset[int]
    ) -> tuple[dict[int, tuple[RequestState, ...]], tuple[tuple[RequestState, Set[int]], ...]]:
        """Return which devices have not yet dropped what a request was about; and of each request, which have.

        Those that have not were away, or did not reply. All of a client's data leaves with it.
        """
        owing: dict[int, tuple[RequestState, ...]] = {}
        begun: list[tuple[RequestState, Set[int]]] = []
        for request in self._place.ledger.request_lines(statuses=BEGUN):
            if request.granularity == "client":
                continue
            if request.status == "forgetting":  # its own forget message is still to come
                continue
            if self._place.no_such_class(request):
                continue
            concerned = _concerned(request, devices)
            known = self._dropped.setdefault(request.id, set())
            if concerned - known:
                known |= dropped(self._place, request)
            for member in sorted(concerned - known):
                owing[member] = (*owing.get(member, ()), request)
            begun.append((request, known))
        return owing, tuple(begun)


def _concerned(request: RequestState, devices: frozenset[int]) -> frozenset[int]:
    """Return the devices that drop what a request is about: samples concern their device, classes every device."""
    return devices if request.granularity == "class" else devices & {request.subject}


def dropped(place: Workplace, request: RequestState) -> set[int]:
    """Return the devices that have dropped what a request is about: by an event, or a reply in its forget step."""
    members = {
        e.member for e in place.ledger.events(request=request.id) if e.kind == "dropped" and e.member is not None
    }
    steps = place.ledger.steps(request=request.id, phase="forget")
    return members | {given.member for step in steps for given in step.contributions}
