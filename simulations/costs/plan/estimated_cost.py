"""What something costs that has not been done yet."""

from dataclasses import asdict, dataclass
from typing import Any

from fedquit.simulations.costs.price import Price


@dataclass(frozen=True, slots=True)
class Cost:
    """Messages, and what they and the work on the devices come to; None: not known.

    Attributes:
        exchanges: how often the server asks and waits.
        messages: in both directions.
        payload_bytes_down: content of the questions, as Flower counts it; `payload_bytes_up`: of the answers.
        wire_bytes: what Flower sends for them.
        busiest_bytes: of those, what goes through the busiest client's link, exchange by exchange.
        device_seconds: of processor time.
        seconds: on the clock of the server.

    >>> (Cost(messages=2) + Cost(messages=4, seconds=None)).messages
    6
    """

    exchanges: int = 0
    messages: int = 0
    payload_bytes_down: int = 0
    payload_bytes_up: int = 0
    wire_bytes: int = 0
    busiest_bytes: int = 0
    device_seconds: float | None = 0.0
    seconds: float | None = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.exchanges + other.exchanges,
            self.messages + other.messages,
            self.payload_bytes_down + other.payload_bytes_down,
            self.payload_bytes_up + other.payload_bytes_up,
            self.wire_bytes + other.wire_bytes,
            self.busiest_bytes + other.busiest_bytes,
            _sum(self.device_seconds, other.device_seconds),
            _sum(self.seconds, other.seconds),
        )

    def document(self, price: Price) -> dict[str, Any]:
        """Return it as a document, priced."""
        payload = self.payload_bytes_down + self.payload_bytes_up
        priced = price.of(self.wire_bytes, slowest=self.busiest_bytes)
        return {**asdict(self), "payload_bytes": payload, **priced}


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other
