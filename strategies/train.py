"""Federated averaging (McMahan et al. 2017, arXiv 1602.05629, Algorithm 1), with seeded sampling and a guard."""

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from fedquit.errors import FedquitError
from fedquit.strategies.costs import Costs
from fedquit.strategies.guard import BadReplyError, checked_arrays, checked_metrics
from fedquit.strategies.metered import MeteredGrid
from fedquit.unlearning.average import ExactMean
from fedquit.unlearning.seeds import derive_seed

Arrays = Mapping[str, NDArray[Any]]
OnReply = Callable[[int, str | None], None]
OnArrays = Callable[[int, Arrays], None]
Config = Mapping[str, float | str]
Correct = Callable[[Arrays, Arrays], Arrays]


class Train(FedAvg):
    """FedAvg whose model depends on the seed alone: not on who answers first, nor on the numbers Flower gives nodes.

    Args:
        grid: the metered grid, whose account is this strategy's `costs`.
        seed: decides which clients are sampled, and the seed each of them gets.
        fraction: share of the clients that take part in a round.
        on_reply: told of every reply: the client, and why it was refused, or None.
        on_arrays: given every model that the guard let through, and whose it is.
        correct: from a client's model and the round's global one to what goes into the mean.
    """

    def __init__(
        self,
        grid: MeteredGrid,
        *,
        seed: int,
        fraction: float = 1.0,
        on_reply: OnReply = lambda _client, _reason: None,
        on_arrays: OnArrays = lambda _client, _arrays: None,
        correct: Correct | None = None,
    ) -> None:
        super().__init__(fraction_train=fraction, min_train_nodes=1, min_available_nodes=1)
        self.grid = grid
        self.seed = seed
        self.on_reply = on_reply
        self.on_arrays = on_arrays
        self.correct = correct
        self._sent: ArrayRecord | None = None
        self._extra: dict[str, ArrayRecord] = {}

    @property
    def costs(self) -> Costs:
        """The account of what this strategy's messages cost."""
        return self.grid.costs

    def sample(self, server_round: int) -> list[int]:
        """Return the nodes of a round, those with most samples first so that none is left to wait for."""
        node_ids = self.grid.get_node_ids()
        if not node_ids:
            raise FedquitError(f"{self.grid.phase} round {server_round}: no client is left to ask")
        size = max(1, round(self.fraction_train * len(node_ids)))
        chosen = random.Random(derive_seed(self.seed, "sample", server_round)).sample(node_ids, size)
        return sorted(chosen, key=lambda node: (-self.grid.members[node].num_examples, self.grid.members[node].client))

    def round(
        self, number: int, arrays: Arrays, config: Config, extra: Arrays | None = None
    ) -> tuple[Arrays, dict[str, float]]:
        """Send the messages of a round, and return the new model and what is known of the replies.

        Args:
            number: the round's number, from 1.
            arrays: the global model.
            config: what every client is told, such as `lr`.
            extra: what travels beside the model.

        Returns:
            The new model, and `loss` (nats), `num-examples`, `clients`, `refused`, `device-seconds`.

        Raises:
            FedquitError: not one reply can be used.
        """
        self._extra = {} if extra is None else {"extra": record_of(extra)}
        messages = self.configure_train(number, record_of(arrays), ConfigRecord(dict(config)), self.grid)
        record, metrics = self.aggregate_train(number, self.grid.send_and_receive(messages))
        if record is None or metrics is None:
            raise FedquitError(f"{self.grid.phase} round {number}: no new model")
        return arrays_of(record), {name: float(value) for name, value in metrics.items() if not isinstance(value, list)}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return a message for each node of the round: the model, and a seed of the node's own."""
        del grid
        self._sent = arrays
        messages = []
        for node in self.sample(server_round):
            seed = derive_seed(self.seed, self.grid.phase, server_round, self.grid.members[node].client)
            told = ConfigRecord({**config, "server-round": server_round, "seed": seed})
            content = RecordDict({self.arrayrecord_key: arrays, **self._extra, self.configrecord_key: told})
            messages.append(Message(content, node, MessageType.TRAIN, group_id=str(server_round)))
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Sum the replies as they come; one that the guard refuses is named and left out.

        Raises:
            FedquitError: not one reply can be used.
        """
        if self._sent is None:
            raise RuntimeError("aggregate_train before configure_train")
        mean, losses, seconds, refused = ExactMean(), [], [], []
        sent = arrays_of(self._sent) if self.correct else {}

        def told(client: int, reason: str | None) -> None:
            if reason is not None:
                refused.append(f"client {client}: {reason}")
            self.on_reply(client, reason)

        for reply in checked(replies, self._sent, self.grid, told):
            try:
                mean.add(self.correct(reply.arrays, sent) if self.correct else reply.arrays, reply.num_examples)
            except OverflowError as reason:
                told(reply.client, str(reason))
                continue
            losses.append(reply.metrics.get("loss", 0.0) * reply.num_examples)
            seconds.append(reply.metrics.get("cpu-seconds", 0.0))
            told(reply.client, None)
            self.on_arrays(reply.client, reply.arrays)
        if not losses:
            raise FedquitError(
                f"{self.grid.phase} round {server_round}: no reply to use ({'; '.join(refused) or 'none came'})"
            )
        summary = {"loss": math.fsum(losses) / mean.weight, "num-examples": mean.weight, "clients": len(losses)}
        spent = {"refused": len(refused), "device-seconds": math.fsum(seconds)}
        return record_of(mean.result()), MetricRecord({**summary, **spent})


@dataclass(frozen=True, slots=True)
class Reply:
    """What a client handed back, as the guard let it through."""

    client: int
    arrays: Arrays
    num_examples: int
    metrics: Mapping[str, float]


def checked(
    replies: Iterable[Message], expected: ArrayRecord, grid: MeteredGrid, on_refused: OnReply
) -> Iterator[Reply]:
    """Yield the replies that fit the model they were sent, as they come; tell `on_refused` of the others."""
    for reply in replies:
        client = grid.client_of(reply)
        try:
            arrays, (count, metrics) = checked_arrays(reply, expected), checked_metrics(reply)
        except BadReplyError as reason:
            on_refused(client, str(reason))
        else:
            yield Reply(client, arrays, count, metrics)


def arrays_of(record: ArrayRecord) -> dict[str, NDArray[Any]]:
    """Return Flower's record as arrays."""
    return {name: array.numpy() for name, array in record.items()}


def record_of(arrays: Arrays) -> ArrayRecord:
    """Return arrays as Flower's record, names in order."""
    return ArrayRecord({name: Array(np.asarray(arrays[name], order="C")) for name in arrays})
