"""A round of an objective whose devices share something other than one model, or share it in another form.

Between the objective's `Sharing`, which thinks in tensors, and the strategy, which sends and gathers arrays.
"""

from collections.abc import Collection, Mapping
from typing import Any

from fedquit.client.objectives import Form, Sharing
from fedquit.client.training.sgd import deterministic
from fedquit.errors import BadReplyError, InputError
from fedquit.strategies.grid.array_record import record_of
from fedquit.unlearning.tensors.convert import Arrays, StateDict, arrays_of, tensors_of


class Shared:
    """See `fedquit.strategies.rounds.travel.Travel`.

    Args:
        sharing: the objective's.
        state: what is shared at the start of the round.
        news: what `Sharing.adopt` kept of the round before; None: nothing.
        holders: the clients that took part in the round before.
    """

    def __init__(self, sharing: Sharing, state: Arrays, news: Arrays | None, holders: Collection[int]) -> None:
        self._sharing, self._holders = sharing, holders
        self._state = tensors_of(state)
        self._news = None if news is None else tensors_of(news)
        self._records: dict[int, tuple[StateDict, Any]] = {}

    def down(self, client: int) -> Any:
        """See `Travel`; what several are sent is made once."""
        sent = self._sharing.down(self._state, client, self._news if client in self._holders else None)
        if id(sent) not in self._records:
            self._records[id(sent)] = sent, record_of(arrays_of(sent))  # held, so that its id stays its own
        return self._records[id(sent)][1]

    def expected(self, claimed: Mapping[str, tuple[int, ...]]) -> Mapping[str, Form]:
        """See `Travel`."""
        return self._sharing.fits(claimed, self._state)

    def read(self, arrays: Arrays, num_examples: int) -> Arrays:
        """See `Travel`."""
        try:
            with deterministic(0):
                return arrays_of(self._sharing.read(tensors_of(arrays), self._state, num_examples))
        except InputError as reason:
            raise BadReplyError(str(reason)) from None

    def adopt(self, new: Arrays, progress: float) -> tuple[Arrays, Arrays | None]:
        """Return what is shared after the round, and what is kept for those that have what was shared in it."""
        with deterministic(0):
            state, news = self._sharing.adopt(self._state, tensors_of(new), progress)
        return arrays_of(state), None if news is None else arrays_of(news)
