"""What bytes come to in seconds and joules, by a model that is plain enough to be argued with.

Seconds: every node has a link of `link` megabit per second, down and up in turn; nodes transfer at the same time, and
the server's own link is no limit. A round then takes as long as its busiest node. `one_link_seconds` is the other
extreme: all bytes of all nodes in turn through one such link, the server's. Latency, HTTP headers and Flower's polling
are left out.

Energy: joules for every byte on the wire. The default is 0.06 kWh a gigabyte, the electricity of fixed-line networks in
2015 (Aslan, Mayers, Koomey and France 2018, doi:10.1111/jiec.12630). It is an average of whole networks, not what a
further byte adds, and they found it to halve about every two years: take it as an upper end.
"""

from dataclasses import asdict, dataclass
from typing import Any

JOULES_PER_BYTE = 0.06 * 3.6e6 / 1e9


@dataclass(frozen=True, slots=True)
class Price:
    """A price of bytes on the wire.

    Attributes:
        link_mbit_per_second: of each node; None: no seconds.
        joules_per_byte: of the network.
    """

    link_mbit_per_second: float | None = None
    joules_per_byte: float = JOULES_PER_BYTE

    def of(self, wire_bytes: int, *, slowest: int) -> dict[str, float | None]:
        """Return what a round costs.

        Args:
            wire_bytes: of all nodes.
            slowest: of the node with most.

        >>> Price(8.0, 0.001).of(3_000_000, slowest=1_000_000)
        {'link_seconds': 1.0, 'one_link_seconds': 3.0, 'joules': 3000.0}
        """
        return {
            "link_seconds": self._seconds(slowest),
            "one_link_seconds": self._seconds(wire_bytes),
            "joules": wire_bytes * self.joules_per_byte,
        }

    def _seconds(self, size: int) -> float | None:
        return None if self.link_mbit_per_second is None else size * 8 / (self.link_mbit_per_second * 1e6)

    def document(self) -> dict[str, Any]:
        """Return the assumptions, for a document."""
        return asdict(self)
