"""What a federation costs: bytes that travel, by phase, round, client and direction.

Bytes here are *payload*: the content of the records, as Flower's own `count_bytes` of each record counts it.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

Direction = Literal["down", "up"]


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


class Costs:
    """The account of one strategy: exact integer sums.

    >>> costs = Costs()
    >>> costs.record("train", 1, client=3, direction="down", num_bytes=100)
    >>> costs.record("train", 1, client=3, direction="up", num_bytes=90)
    >>> costs.of("train"), costs.of("train", 1), costs.by_client[3]
    (Traffic(down=100, up=90), Traffic(down=100, up=90), Traffic(down=100, up=90))
    """

    def __init__(self) -> None:
        self.by_round: defaultdict[tuple[str, int], Traffic] = defaultdict(Traffic)
        self.by_client: defaultdict[int, Traffic] = defaultdict(Traffic)

    def record(self, phase: str, server_round: int, *, client: int, direction: Direction, num_bytes: int) -> None:
        """Add one message."""
        traffic = Traffic(down=num_bytes) if direction == "down" else Traffic(up=num_bytes)
        self.by_round[phase, server_round] += traffic
        self.by_client[client] += traffic

    def of(self, phase: str, server_round: int | None = None) -> Traffic:
        """Return the traffic of a phase, or of one of its rounds."""
        return sum(
            (t for (p, r), t in self.by_round.items() if p == phase and server_round in (None, r)),
            Traffic(),
        )
