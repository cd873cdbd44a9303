"""A round of which only the mean of the models counts: a grid may sum them where they are made.

Flower's messages carry every model to the server, which takes longer than small models train. Where nothing reads a
single model, a grid that calls its clients itself need not make these messages: it trains, checks each model as the
guard does, and adds it to an exact sum, which has the same bits in any order. What the messages would have come to is
logged all the same.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from fedquit.strategies.cost_log.flower_objects import Chunks, Kind
from fedquit.unlearning.tensors.convert import Arrays
from fedquit.unlearning.tensors.exact_mean import ExactMean


@dataclass(frozen=True, slots=True)
class PlainRound:
    """A round of training in which the same model goes to all, and models like it come back.

    Attributes:
        arrays: the global model.
        config: of every message, except `seed`.
        seeds: node -> its seed, in the order in which they are asked.
        parameters: the entries that are parameters, so that the others are checked; None: they are not.
        lengths: whether the length of each step is measured.
    """

    arrays: Arrays
    config: Mapping[str, float | str]
    seeds: Mapping[int, int]
    parameters: frozenset[str] | None
    lengths: bool


class SummedReply(NamedTuple):
    """What is known of a reply whose model is in the sum, or was refused.

    Attributes:
        node: whose it is.
        refused: why it is not in the sum; "": it is.
        metrics: as the device gave them.
        digests: of each array's chunks, in the order of the model; empty: the device failed, and there is no model.
        length: of the step over the parameters, if asked for.
        ready: when it was there, on the clock of `time.monotonic`, which all processes of a machine share.
        form: names and kinds of its arrays, if they are not the model's, for which it was refused; else None.
    """

    node: int
    refused: str
    metrics: Mapping[str, int | float]
    digests: tuple[Chunks, ...] = ()
    length: float | None = None
    ready: float = 0.0
    form: tuple[tuple[str, ...], tuple[Kind, ...]] | None = None


@runtime_checkable
class SumsReplies(Protocol):
    """A grid that can sum replies where they are made."""

    def can_sum(self, arrays: Arrays) -> bool:
        """Say whether models like these can be summed now."""

    def sum_replies(self, plain: PlainRound, mean: ExactMean, *, timeout: float) -> Iterator[SummedReply]:
        """Begin a round, and return its replies as they come; after the last, `mean` has all that were good.

        Raises:
            FedquitError: `timeout` seconds have passed, or a worker process died.
        """
