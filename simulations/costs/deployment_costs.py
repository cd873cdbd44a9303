"""The costs of a deployment, in the form of a simulated run's: by phase, round and member, and of each request.

Nobody retrains there. The cost of retraining is estimated from what happened: as many rounds of training as there were
before the request, without the members that are out of training by then.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from fedquit.documents import Document
from fedquit.errors import InputError
from fedquit.server.federation import FILE, Federation
from fedquit.server.ledger import FORGOTTEN, UNDER_WAY, Ledger, Request, Step
from fedquit.server.run.run_folder import costs_file
from fedquit.simulations.costs.price import Price
from fedquit.simulations.costs.run_costs import Clock, beside_retraining, phases_of, summed, sums_of
from fedquit.strategies.cost_log.cost_rows import Row, read_rows

LEFT = (*UNDER_WAY, *FORGOTTEN, "failed")
"""States of a request whose device, if all of its data is to go, trains no more."""


def is_deployment(path: Path) -> bool:
    """Say whether a folder is that of a deployed server."""
    return (path / FILE).is_file()


def deployed_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of the server in the folder `path`, except a line that is still being written.

    Raises:
        InputError: no round has begun.
    """
    file = costs_file(path)
    if not file.is_file():
        raise InputError(f"{path} has no cost log: no round has begun")
    return read_rows(file, _whole_lines(file))


def deployed_costs(path: Path, price: Price) -> Document:
    """Return what the federation of the server in the folder `path` cost so far; see docs/costs.md.

    Raises:
        InputError: it is no server's folder, or no round has begun.
    """
    federation = Federation.read(path)
    with closing(Ledger.open(federation.ledger_url(path), write=False)) as ledger:
        steps, requests = ledger.steps(), ledger.requests()
        names = {member.number: member.name for member in ledger.members()}
    rounds, nodes = sums_of(deployed_rows(path), price)
    logged = {each["round"] for each in rounds}
    begun = {step.request for step in steps if step.number in logged}
    served = [request for request in requests if request.id in begun]
    clocks = {
        phase: clock_of(step for step in steps if step.phase == phase) for phase in ("train", "forget", "recover")
    }
    return {
        "run": federation.name,
        "model": price.document(),
        "phases": phases_of(rounds, clocks),
        "rounds": rounds,
        "nodes": [{**node, "name": names.get(node["node"], "")} for node in nodes],
        "requests": list(_of_requests(path, served, requests, steps, rounds)),
        "incomplete": [],
    }


def clock_of(steps: Iterable[Step]) -> Clock:
    """Return how many steps there are, and how long they took."""
    seconds = [step.seconds for step in steps]
    return Clock(len(seconds), sum(seconds))


def _of_requests(
    path: Path,
    served: Sequence[Request],
    requests: Sequence[Request],
    steps: Sequence[Step],
    rounds: Sequence[Document],
) -> Iterator[Document]:
    """Yield what each request cost: all messages of its steps, those that measure too."""
    own = {request.id: [step for step in steps if step.request == request.id] for request in served}
    first = {request.id: own[request.id][0].number for request in served}
    trained = _trained_before(deployed_rows(path), sorted(first.values()))
    for request in served:
        numbers = {step.number for step in own[request.id]}
        cost = summed([each for each in rounds if each["round"] in numbers], clock_of(own[request.id]))
        out = {
            other.subject
            for other in requests
            if other.granularity == "client" and other.status in LEFT and other.changed_at <= request.changed_at
        }
        before = [step for step in steps if step.phase == "train" and step.number < first[request.id]]
        retrain = trained[first[request.id]].without(out, clock_of(before))
        yield {"id": request.id, "method": request.method, **beside_retraining([cost], retrain)}


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
