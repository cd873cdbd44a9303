"""Clients on which the model is bad count for more (Li et al., "Fair Resource Allocation in FL", ICLR 2020)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from flwr.serverapp import strategy as flower

from fedquit.errors import BadReplyError
from fedquit.strategies.rules.flower import (
    FLOWER_SHOWN_ONE_NODE,
    LARGEST_NORM,
    Metrics,
    SingleReplies,
    norm,
    weighted_mean,
)
from fedquit.strategies.rules.rule import Opening, Traits
from fedquit.unlearning.setting_checks import check_at_least_zero
from fedquit.unlearning.tensors.convert import Arrays


@dataclass(frozen=True, slots=True)
class QFedAvg(SingleReplies):
    """q-FedAvg: a client's step counts by its loss to the power of q.

    A client that lies about its loss has more weight than its due.

    Attributes:
        q: 0 is a plain mean, in which every client counts the same.
        client_learning_rate: 1 / L of the paper; 0: the devices' learning rate of the round.

    >>> QFedAvg().q
    0.1
    """

    name: ClassVar[str] = "qfedavg"
    traits: ClassVar[Traits] = Traits("clients with a large loss count for more", "arXiv 1905.10497", reads_single=True)

    q: float = 0.1
    client_learning_rate: float = 0.0

    def __post_init__(self) -> None:
        check_at_least_zero("q", self.q)
        check_at_least_zero("client-learning-rate", self.client_learning_rate)

    def strategy(self, opening: Opening, replies: int) -> flower.Strategy:  # noqa: ARG002 - the interface
        """See `FlowerRule`."""
        rate = self.client_learning_rate or opening.lr
        return flower.QFedAvg(rate, self.q, "loss", **FLOWER_SHOWN_ONE_NODE)  # type: ignore[arg-type]

    def check_reply(self, opening: Opening, arrays: Arrays, metrics: Metrics) -> None:
        """See `SingleReplies`: what Flower would divide by, or take a root of, must be in order."""
        loss = metrics.get("loss")
        if loss is None or loss < 0:
            raise BadReplyError(f"its loss is {loss}; qfedavg weighs it by a loss of at least 0")
        with np.errstate(over="ignore"):
            weight = np.float_power(loss + 1e-10, self.q) / (self.client_learning_rate or opening.lr)
        if not weight * norm(arrays, opening.sent) < LARGEST_NORM:
            raise BadReplyError(f"its loss of {loss:.4g} gives its step too large a weight")

    def sees(self, name: str, opening: Opening) -> bool:
        """See `SingleReplies`: buffers take the mean instead."""
        return name in opening.parameters

    def say(self, num_examples: int, metrics: Metrics) -> Metrics:
        """See `SingleReplies`."""
        return {"num-examples": num_examples, "loss": metrics["loss"]}

    def rest(self, replies: Sequence[tuple[Arrays, int]]) -> Arrays:
        """See `SingleReplies`."""
        return weighted_mean(replies)
