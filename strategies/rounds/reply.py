"""A client's reply in a round, as the guard admitted it, and the result of several."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from fedquit.unlearning.tensors.convert import Arrays

OnReply = Callable[[int, str | None], None]


class ReplyDetail(Enum):
    """What is needed of each reply, besides its metrics."""

    NOTHING = "nothing"
    LENGTHS = "the length of each step over the parameters"
    MODELS = "the models"


@dataclass(frozen=True, slots=True)
class Reply:
    """A client's reply.

    Attributes:
        samples_digest: a commitment to the samples that it used, as it says: 64 hex digits; "" if it says none.
        weight: of its model in a mean, where that is not its number of samples; 0: it is.
        arrays: {} where replies were summed as they were made: then nothing reads them singly.
        length: of its step over the parameters, where it was measured; None: it was not.
    """

    client: int
    arrays: Arrays
    num_examples: int
    metrics: Mapping[str, float]
    samples_digest: str = ""
    weight: int = 0
    length: float | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """What was made of a round's replies.

    Attributes:
        arrays: the new model.
        state: the rule's state for the next round; None: none.
        used: the clients whose replies are in it.
        loss: their mean training loss, nats; `weight`: the sum of their weights.
        seconds: of processor time, over all of them.
    """

    arrays: Arrays
    state: Arrays | None
    used: tuple[int, ...]
    loss: float
    weight: int
    seconds: float


@dataclass(slots=True)
class Tally:
    """What is known of the replies that go into a model, besides their models.

    >>> tally = Tally()
    >>> tally.add(3, 2, {"loss": 0.5})
    >>> tally.made({}, None).loss
    0.5
    """

    used: list[int] = field(default_factory=list)
    weights: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def add(self, client: int, weight: int, metrics: Mapping[str, float]) -> None:
        """Count a reply."""
        self.used.append(client)
        self.weights.append(weight)
        self.losses.append(metrics.get("loss", 0.0) * weight)
        self.seconds.append(metrics.get("cpu-seconds", 0.0))

    def made(self, arrays: Arrays, state: Arrays | None) -> Made:
        """Return what was made of them."""
        weight = sum(self.weights)
        loss = math.fsum(self.losses) / weight if weight else 0.0
        return Made(arrays, state, tuple(self.used), loss, weight, math.fsum(self.seconds))
