"""What a federation costs: every message a row, added to a file as it comes, and running sums.

In memory are the sums of each phase and the messages of the exchange in progress; so the account of a year needs no
more than that of a day. Rows that were written after the last checkpoint are cut off when a run is resumed, as a
journal's are.
"""

import os
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedquit.files import explained
from fedquit.strategies.rows import Direction, Row, read_rows, write_rows
from fedquit.strategies.wire import Wire


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
    """The account of one run: rows in a file, if it is given one, and exact sums.

    Args:
        path: file of the rows; those in it are counted first.

    >>> costs = Costs()
    >>> costs.record(Row("train", 1, 3, "down", 100, 0, 0), Wire(20, {1: 90}))
    >>> costs.record(Row("train", 1, 3, "up", 90, 0, 0), Wire(20, {1: 90}))
    >>> costs.record(Row("train", 1, 4, "up", 90, 0, 0), Wire(20, {1: 90}))
    >>> costs.settle()
    >>> costs.of("train"), costs.of("train", 1)
    (Traffic(down=100, up=180), Traffic(down=100, up=180))
    >>> costs.totals["train", "up"]
    Total(messages=2, payload_bytes=180, wire_bytes=220, deduplicated_bytes=130, device_seconds=0.0)
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.totals: dict[tuple[str, Direction], Total] = {}
        self._last: dict[str, tuple[int, Traffic]] = {}
        self._exchange: dict[Direction, _Sent] = {"down": _Sent(), "up": _Sent()}
        self._unsynced = False
        for row in read_rows(path) if path else ():
            self._count(row)
            self._remember(row)

    def record(self, row: Row, wire: Wire) -> None:
        """Add a message of the exchange in progress; `wire` says what its row does not yet."""
        self._remember(row)
        self._exchange[row.direction].add(row, wire)

    def settle(self) -> None:
        """End the exchange: what its messages have in common is counted once, and its rows are written."""
        rows = [row for sent in self._exchange.values() for row in sent.rows()]
        self._exchange = {"down": _Sent(), "up": _Sent()}
        for row in rows:
            self._count(row)
        if self.path and rows:
            with explained(self.path), self.path.open("ab") as file:
                write_rows(file, rows)
            self._unsynced = True

    def sync(self) -> int:
        """Make the rows durable, and return the size of their file."""
        self.settle()
        if self.path is None or not self.path.exists():
            return 0
        with explained(self.path), self.path.open("ab") as file:
            if self._unsynced:
                os.fsync(file.fileno())
            self._unsynced = False
            return file.tell()

    def of(self, phase: str, server_round: int | None = None) -> Traffic:
        """Return the payload of a phase, or of its latest round; of earlier rounds the file alone knows.

        Raises:
            LookupError: a later round of the phase has begun.
        """
        if server_round is None:
            down, up = (self.totals.get((phase, way), Total()).payload_bytes for way in ("down", "up"))
            pending = {
                way: sum(r.payload_bytes for r in s.told if r.phase == phase) for way, s in self._exchange.items()
            }
            return Traffic(down + pending["down"], up + pending["up"])
        latest, traffic = self._last.get(phase, (server_round, Traffic()))
        if server_round < latest:
            raise LookupError(f"{phase} round {server_round} is over: its costs are in the rows alone")
        return traffic if server_round == latest else Traffic()

    def _count(self, row: Row) -> None:
        self.totals.setdefault((row.phase, row.direction), Total()).add(row)

    def _remember(self, row: Row) -> None:
        latest, traffic = self._last.get(row.phase, (row.round, Traffic()))
        more = Traffic(**{row.direction: row.payload_bytes})
        self._last[row.phase] = (row.round, traffic + more if latest == row.round else more)


class _Sent:
    """The messages of an exchange in one direction, and which objects they are made of."""

    def __init__(self) -> None:
        self.told: list[Row] = []
        self._fixed = array("q")
        self._ids, self._sizes, self._owners = array("q"), array("q"), array("q")

    def add(self, row: Row, wire: Wire) -> None:
        self._ids.extend(wire.objects)
        self._sizes.extend(wire.objects.values())
        self._owners.extend([len(self.told)] * len(wire.objects))
        self._fixed.append(wire.fixed)
        self.told.append(row)

    def rows(self) -> list[Row]:
        """Return the rows in the order of their nodes, whatever order they came in.

        An object that several carry is counted to the first of them.
        """
        order = sorted(range(len(self.told)), key=lambda index: self.told[index].node)
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        ids, sizes = np.frombuffer(self._ids, dtype=np.int64), np.frombuffer(self._sizes, dtype=np.int64)
        owners = rank[np.frombuffer(self._owners, dtype=np.int64)]
        by_object = np.lexsort((owners, ids))
        first = by_object[np.diff(ids[by_object], prepend=ids[by_object][:1] - 1) != 0]
        fixed = np.frombuffer(self._fixed, dtype=np.int64)[order]
        wire, deduplicated = fixed.copy(), fixed.copy()
        np.add.at(wire, owners, sizes)
        np.add.at(deduplicated, owners[first], sizes[first])
        return [
            self.told[index]._replace(wire_bytes=int(wire[place]), deduplicated_bytes=int(deduplicated[place]))
            for place, index in enumerate(order)
        ]
