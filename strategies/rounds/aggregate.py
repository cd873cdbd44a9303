"""What turns the replies of one round into the new model: the seam between the messages and any aggregation rule."""

from collections.abc import Mapping
from typing import Protocol

from fedquit.unlearning.tensors.convert import Arrays
from fedquit.unlearning.tensors.exact_mean import ExactMean

Config = Mapping[str, float | str]


class Aggregate(Protocol):
    """One round's replies, taken in as they come in any order, and the model they make."""

    @property
    def config(self) -> Config:
        """What the rule adds to the config of the round."""

    def add(self, client: int, arrays: Arrays, num_examples: int, metrics: Mapping[str, float]) -> None:
        """Take in a reply that the guard let through; on an error nothing is taken in.

        Raises:
            OverflowError, BadReplyError: this reply cannot be used; the text says why.
        """

    def result(self) -> tuple[Arrays, Arrays | None]:
        """Return the new model, and the rule's state for the next round; None: it has none.

        Raises:
            FedquitError: the replies make no model.
        """


class Mean:
    """The mean weighted by numbers of samples, exact in any order (McMahan et al. 2017, arXiv 1602.05629).

    Args:
        config: what is added to the config of the round.

    Attributes:
        mean: what takes the replies in.

    >>> import numpy as np
    >>> mean = Mean()
    >>> mean.add(0, {"w": np.array([1.0])}, 3, {})
    >>> mean.add(1, {"w": np.array([5.0])}, 1, {})
    >>> mean.result()
    ({'w': array([2.])}, None)
    """

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or {}
        self.mean = ExactMean()

    def add(self, client: int, arrays: Arrays, num_examples: int, metrics: Mapping[str, float]) -> None:
        """See `Aggregate`."""
        del client, metrics
        self.mean.add(arrays, num_examples)

    def result(self) -> tuple[Arrays, Arrays | None]:
        """See `Aggregate`."""
        return self.mean.result(), None
