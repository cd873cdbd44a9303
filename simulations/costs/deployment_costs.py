"""The costs of a deployment, from the folder of its server.

Nobody retrains there. The cost of retraining is estimated from what happened: as many rounds of training as there were
before the request, without the members that are out of training by then.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from fedquit.documents import Document
from fedquit.errors import InputError
from fedquit.server.federation import FILE, Federation
from fedquit.server.ledger import FORGOTTEN, UNDER_WAY, Ledger, Request, Step
from fedquit.server.run.run_folder import costs_file
from fedquit.simulations.costs.cost_document import Clock, beside_retraining, summed
from fedquit.strategies.cost_log.cost_rows import Row, read_rows

LEFT = (*UNDER_WAY, *FORGOTTEN, "failed")
"""States of a request whose device, if all of its data is to go, trains no more."""


def is_deployment(path: Path) -> bool:
    """Say whether a folder is that of a deployed server."""
    return (path / FILE).is_file()


class DeploymentCosts:
    """See `CostSource`: the federation of the server in a folder.

    Raises:
        InputError: it is no server's folder.
    """

    def __init__(self, path: Path) -> None:
        federation = Federation.read(path)
        self.path, self.name = path, federation.name
        with closing(Ledger.open(federation.ledger_url(path), write=False)) as ledger:
            self._steps, self._requests = ledger.steps(), ledger.requests()
            self._names = {member.number: member.name for member in ledger.members()}

    def rows(self) -> Iterator[Row]:
        """See `CostSource`; a line that is still being written is left out.

        Raises:
            InputError: no round has begun.
        """
        file = costs_file(self.path)
        if not file.is_file():
            raise InputError(f"{self.path} has no cost log: no round has begun")
        return read_rows(file, _whole_lines(file))

    def clocks(self) -> Mapping[str, Clock]:
        """See `CostSource`."""
        phases = ("train", "forget", "recover")
        return {phase: clock_of(step for step in self._steps if step.phase == phase) for phase in phases}

    def node_names(self) -> Mapping[int, str]:
        """See `CostSource`."""
        return self._names

    def incomplete(self, phases: Mapping[str, Document]) -> list[str]:
        """See `CostSource`; a deployment has all rows, those of killed attempts too."""
        del phases
        return []

    def requests(self, rounds: Sequence[Document], phases: Mapping[str, Document]) -> list[Document]:
        """See `CostSource`: all messages of a request's steps count, those that evaluate too."""
        del phases
        logged = {each["round"] for each in rounds}
        begun = {step.request for step in self._steps if step.number in logged}
        own = {
            request.id: [step for step in self._steps if step.request == request.id]
            for request in self._requests
            if request.id in begun
        }
        trained = _trained_before(self.rows(), sorted(steps[0].number for steps in own.values()))
        found = []
        for request in self._requests:
            if request.id in own:
                first, steps = own[request.id][0].number, own[request.id]
                numbers = {step.number for step in steps}
                cost = summed([each for each in rounds if each["round"] in numbers], clock_of(steps))
                before = [step for step in self._steps if step.phase == "train" and step.number < first]
                retrain = trained[first].without(self._out_by(request), clock_of(before))
                found.append({"id": request.id, "method": request.method, **beside_retraining([cost], retrain)})
        return found

    def _out_by(self, request: Request) -> set[int]:
        """Return the members that train no more when a request ends."""
        return {
            other.subject
            for other in self._requests
            if other.granularity == "client" and other.status in LEFT and other.changed_at <= request.changed_at
        }


def clock_of(steps: Iterable[Step]) -> Clock:
    """Return how many steps there are, and how long they took."""
    seconds = [step.seconds for step in steps]
    return Clock(len(seconds), sum(seconds))


class _Trained:
    """Payload bytes, serialised bytes and device seconds of training, by member."""

    def __init__(self) -> None:
        self.of = defaultdict[int, tuple[int, int, float]](lambda: (0, 0, 0.0))

    def add(self, row: Row) -> None:
        payload, wire, seconds = self.of[row.node]
        self.of[row.node] = payload + row.payload_bytes, wire + row.wire_bytes, seconds + row.device_seconds

    def copy(self) -> "_Trained":
        found = _Trained()
        found.of.update(self.of)
        return found

    def without(self, members: set[int], clock: Clock) -> Document:
        """Return the sums of all others; what is deduplicated of theirs alone is not known."""
        left = [sums for member, sums in self.of.items() if member not in members]
        payload, wire, seconds = (sum(part) for part in zip(*left, strict=True)) if left else (0, 0, 0.0)
        return {
            "payload_bytes": payload,
            "wire_bytes": wire,
            "deduplicated_bytes": None,
            "rounds": clock.exchanges,
            "seconds": clock.seconds,
            "device_seconds": seconds,
        }


def _trained_before(rows: Iterable[Row], numbers: Sequence[int]) -> dict[int, _Trained]:
    """Return what training took before each of these steps, which ascend; rows are in the order of steps."""
    found, so_far, waiting = dict[int, _Trained](), _Trained(), list(numbers)
    for row in rows:
        while waiting and row.round >= waiting[0]:
            found[waiting.pop(0)] = so_far.copy()
        if row.phase == "train":
            so_far.add(row)
    return {**found, **dict.fromkeys(waiting, so_far)}


def _whole_lines(file: Path) -> int:
    """Return the bytes of a file up to the end of its last whole line."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        opened.seek(max(0, size - 4096))
        return size - len(opened.read().rpartition(b"\n")[2])
