"""Observed message sizes and device times of a run's training: the basis of the estimates."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from fedquit.errors import InputError
from fedquit.server.run.run_folder import read_state
from fedquit.simulations.costs.run_costs import rows_of
from fedquit.strategies.cost_log.cost_rows import Row


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes of one message."""

    payload: int
    wire: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What training showed.

    Attributes:
        requests: a question of each of its rounds, in order.
        reply: an answer.
        exact: whether all questions of a round, and all answers, had the same payload.
        steady: whether questions of different rounds had, too.
        device_seconds: a client's processor time for a round, the median over its rounds.
        round_device_seconds: of all clients of a round, the median.
        round_seconds: of a round on the server's clock, the median.
    """

    requests: Sequence[Size]
    reply: Size
    exact: bool
    steady: bool
    device_seconds: Mapping[int, float]
    round_device_seconds: float
    round_seconds: float

    def request_size(self, number: int) -> Size:
        """Return a question of round `number` of a phase, from 1; after the last one seen, rounds are like that."""
        return self.requests[min(number, len(self.requests)) - 1]

    def seconds_of(self, client: int) -> float:
        """Return a client's processor time for a round; that of the others where it took part in none."""
        return self.device_seconds.get(client, fmean(self.device_seconds.values()))


def seen_in(path: Path) -> Seen:
    """Return what the training of the run in the folder `path` showed.

    Raises:
        InputError: it is no run, has no cost log, or no round of training is finished.
    """
    rounds = read_state(path).of("train")
    rows = [row for row in rows_of(path) if row.phase == "train"]
    if not rounds or not rows:
        raise InputError(f"{path}: no round of training is in the cost log, so nothing can be estimated from it")
    return _seen(rows, median(r.seconds for r in rounds))


def _seen(rows: Iterable[Row], round_seconds: float) -> Seen:
    requests, replies = defaultdict[int, list[Size]](list), list[Size]()
    by_client, by_round = defaultdict[int, list[float]](list), defaultdict[int, float](float)
    for row in rows:
        size = Size(row.payload_bytes, row.wire_bytes)
        if row.direction == "down":
            requests[row.round].append(size)
        else:
            replies.append(size)
            by_client[row.node].append(row.device_seconds)
            by_round[row.round] += row.device_seconds
    if not replies:
        raise InputError("no answer of a device is in the cost log, so nothing can be estimated")
    return Seen(
        requests=[_one(requests[number]) for number in sorted(requests)],
        reply=_one(replies),
        exact=all(len({size.payload for size in sizes}) == 1 for sizes in (*requests.values(), replies)),
        steady=len({size.payload for sizes in requests.values() for size in sizes}) == 1,
        device_seconds={client: median(seconds) for client, seconds in by_client.items()},
        round_device_seconds=median(by_round.values()),
        round_seconds=round_seconds,
    )


def _one(sizes: Sequence[Size]) -> Size:
    return Size(max(size.payload for size in sizes), round(median(size.wire for size in sizes)))
