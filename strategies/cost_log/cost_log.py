"""What a federation costs: every message a row, added to a file as it comes, and running sums.

In memory are the sums of each phase and the messages of the exchange in progress; so the log of a year needs no
more than that of a day. Rows that were written after the last checkpoint are cut off when a run is resumed, as a
journal's are.

To flush a file to the disk takes longer than to log a round. So rows are flushed only once there are some kilobytes
of them. Until then the checkpoint, which is flushed anyway, holds them as well, and what a failure of power took from
the file is put back from there.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from fedquit.files import explained
from fedquit.strategies.cost_log.cost_rows import HEADER, Direction, Row, line_of, read_rows
from fedquit.strategies.cost_log.message_size import MessageSize

MOST_TAIL = 16_384


@dataclass(frozen=True, slots=True)
class Traffic:
    """Payload bytes from the server (`down`) and to the server (`up`)."""

    down: int = 0
    up: int = 0

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.down + other.down, self.up + other.up)

    @property
    def total(self) -> int:
        """Bytes in both directions."""
        return self.down + self.up


@dataclass(frozen=True, slots=True)
class LogCheckpoint:
    """What a checkpoint holds of a cost log: its size, and the last rows if they may not be on the disk."""

    size: int = 0
    tail: str = ""


@dataclass(slots=True)
class Total:
    """Sums over rows; bytes are exact."""

    messages: int = 0
    payload_bytes: int = 0
    wire_bytes: int = 0
    deduplicated_bytes: int = 0
    device_seconds: float = 0.0

    def add(self, row: Row) -> None:
        """Count one more row."""
        self.messages += 1
        self.payload_bytes += row.payload_bytes
        self.wire_bytes += row.wire_bytes
        self.deduplicated_bytes += row.deduplicated_bytes
        self.device_seconds += row.device_seconds


class Costs:
    """The cost log of one run: rows in a file, if it is given one, and exact sums.

    Args:
        path: file of the rows; those in it are counted first.

    >>> from fedquit.strategies.cost_log.flower_objects import Part
    >>> costs, wire = Costs(), MessageSize(20, (Part((1,), (90,)),))
    >>> costs.record(Row("train", 1, 3, "down", 100, 0, 0), wire)
    >>> costs.record(Row("train", 1, 3, "up", 90, 0, 0), wire)
    >>> costs.record(Row("train", 1, 4, "up", 90, 0, 0), wire)
    >>> costs.settle()
    >>> costs.of("train"), costs.of("train", 1)
    (Traffic(down=100, up=180), Traffic(down=100, up=180))
    >>> costs.totals["train", "up"]
    Total(messages=2, payload_bytes=180, wire_bytes=220, deduplicated_bytes=130, device_seconds=0.0)
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.totals: dict[tuple[str, Direction], Total] = {}
        self._latest: dict[str, _Latest] = {}
        self._exchange = ExchangeRows()
        self._tail: bytes | None = None  # what is there may not be on the disk
        for row in read_rows(path) if path else ():
            self._count(row)
            self._remember(row)

    def record(self, row: Row, wire: MessageSize) -> None:
        """Add a message of the exchange in progress; `wire` says what its row does not yet."""
        self._remember(row)
        self._exchange.add(row, wire)

    def settle(self) -> None:
        """End the exchange: what its messages have in common is counted once, and its rows are written."""
        rows = self._exchange.rows()
        if not rows:
            return
        self._exchange = ExchangeRows()
        for row in rows:
            self._count(row)
        if self.path:
            lines = b"".join(map(line_of, rows))
            with explained(self.path), self.path.open("ab") as file:
                lines = lines if file.tell() else HEADER + lines
                file.write(lines)
            if self._tail is not None:
                self._tail = self._tail + lines if len(self._tail) + len(lines) <= MOST_TAIL else None

    def sync(self) -> LogCheckpoint:
        """Return what a checkpoint must hold: with it on the disk, no row is lost."""
        self.settle()
        if self.path is None or not self.path.exists():
            return LogCheckpoint()
        if self._tail is None:
            with explained(self.path), self.path.open("ab") as file:
                os.fsync(file.fileno())
            self._tail = b""
        return LogCheckpoint(self.path.stat().st_size, self._tail.decode())

    def of(self, phase: str, server_round: int | None = None) -> Traffic:
        """Return the payload of a phase, or of its latest round; of earlier rounds the file alone knows.

        Raises:
            LookupError: a later round of the phase has begun.
        """
        if server_round is None:
            down, up = (self.totals.get((phase, way), Total()).payload_bytes for way in ("down", "up"))
            pending = [(row.direction, row.payload_bytes) for row, _ in self._exchange.messages if row.phase == phase]
            more_down, more_up = (sum(size for other, size in pending if other == way) for way in ("down", "up"))
            return Traffic(down + more_down, up + more_up)
        latest = self._latest.get(phase)
        if latest is None or server_round > latest.round:
            return Traffic()
        if server_round < latest.round:
            raise LookupError(f"{phase} round {server_round} is over: its costs are in the rows alone")
        return Traffic(latest.down, latest.up)

    def _count(self, row: Row) -> None:
        way = (row.phase, row.direction)
        if way not in self.totals:
            self.totals[way] = Total()
        self.totals[way].add(row)

    def _remember(self, row: Row) -> None:
        latest = self._latest.get(row.phase)
        if latest is None or latest.round != row.round:
            latest = self._latest[row.phase] = _Latest(row.round)
        if row.direction == "down":
            latest.down += row.payload_bytes
        else:
            latest.up += row.payload_bytes


@dataclass(slots=True)
class _Latest:
    """The latest round of a phase, and the payload of its messages so far."""

    round: int
    down: int = 0
    up: int = 0


class ExchangeRows:
    """The messages of one exchange.

    Attributes:
        messages: the row of each, and what it is on the wire.
    """

    def __init__(self) -> None:
        self.messages: list[tuple[Row, MessageSize]] = []
        self._seen: dict[Direction, set[int]] = {"down": set(), "up": set()}
        self._repeats: set[Direction] = set()

    def add(self, row: Row, wire: MessageSize) -> None:
        """Add a message; while none repeats an object of another, its bytes are known at once."""
        if row.direction not in self._repeats:
            whole, unseen = wire.counted(self._seen[row.direction])
            row = _sized(row, whole, unseen)
            if unseen < whole:
                self._repeats.add(row.direction)
        self.messages.append((row, wire))

    def rows(self) -> list[Row]:
        """Return the rows with their serialised bytes: requests, then replies, each in the order of nodes.

        An object that several carry in one direction is counted to the first of them, whatever order they came in.
        """
        rows, seen = list[Row](), {direction: set[int]() for direction in self._repeats}
        for row, wire in sorted(self.messages, key=lambda message: (message[0].direction, message[0].node)):
            again = row.direction in self._repeats
            rows.append(_sized(row, *wire.counted(seen[row.direction])) if again else row)
        return rows


def _sized(row: Row, whole: int, unseen: int) -> Row:
    """Return a row with its serialised bytes, and those without what others carried."""
    return Row(*row[:5], whole, unseen, *row[7:])
