"""A client's reply in a round, as the guard admitted it, and the result of several."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fedquit.unlearning.tensors.convert import Arrays

OnReply = Callable[[int, str | None], None]


@dataclass(frozen=True, slots=True)
class Reply:
    """A client's reply.

    Attributes:
        samples_digest: a commitment to the samples that it used, as it says: 64 hex digits; "" if it says none.
        weight: of its model in a mean, where that is not its number of samples; 0: it is.
    """

    client: int
    arrays: Arrays
    num_examples: int
    metrics: Mapping[str, float]
    samples_digest: str = ""
    weight: int = 0


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
