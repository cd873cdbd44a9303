"""What travels in a round: one model to all and models back, unless an objective says otherwise."""

from collections.abc import Mapping
from typing import Protocol

from flwr.app import ArrayRecord

from fedquit.strategies.guard.reply_checks import Forms
from fedquit.strategies.rounds.aggregate import Config
from fedquit.unlearning.tensors.convert import Arrays, Shape


class Travel(Protocol):
    """The messages of a round, as their sender and reader sees them."""

    def down(self, client: int) -> ArrayRecord:
        """Return what goes to a client."""

    def expected(self, claimed: Mapping[str, Shape]) -> Forms:
        """Return what a reply's arrays must be, given the shapes that they claim."""

    def read(self, arrays: Arrays, num_examples: int) -> Arrays:
        """Return what counts of a reply's arrays, which are as expected.

        Raises:
            BadReplyError: they contradict themselves.
        """


class OneModel:
    """The same model goes to all, and models like it come back."""

    def __init__(self, model: ArrayRecord) -> None:
        self._model = model

    def down(self, client: int) -> ArrayRecord:
        """See `Travel`."""
        del client
        return self._model

    def expected(self, claimed: Mapping[str, Shape]) -> Forms:
        """See `Travel`."""
        del claimed
        return self._model

    def read(self, arrays: Arrays, num_examples: int) -> Arrays:
        """See `Travel`."""
        del num_examples
        return arrays


class Apart:
    """See `Aggregate`: every reply under the number of its client, and nothing averaged.

    >>> import numpy as np
    >>> apart = Apart()
    >>> apart.add(7, {"counts": np.array([3])}, 3, {})
    >>> apart.result()
    ({'7/counts': array([3])}, None)
    """

    def __init__(self) -> None:
        self.config: Config = {}
        self._said: dict[int, Arrays] = {}

    def add(self, client: int, arrays: Arrays, num_examples: int, metrics: Mapping[str, float]) -> None:
        """See `Aggregate`."""
        del num_examples, metrics
        self._said[client] = arrays

    def result(self) -> tuple[Arrays, Arrays | None]:
        """See `Aggregate`."""
        said = sorted(self._said.items())
        return {f"{client}/{name}": array for client, arrays in said for name, array in arrays.items()}, None
