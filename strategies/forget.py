"""Forgetting: the devices that ask unlearn the global model and hand it back as the new one.

With several at once each unlearns the same global model g, and the new one is g + sum_u w_u (f_u - g), w_u being
a device's share of the forgotten samples. As the shares add up to one, that is the mean of the f_u weighted by
samples, which is what `Train` computes; with one device its model replaces g, bit for bit.
"""

from collections.abc import Iterable
from typing import Any

from flwr.app import ArrayRecord, Message, MetricRecord

from fedquit.errors import FedquitError
from fedquit.strategies.metered import MeteredGrid
from fedquit.strategies.train import Train


class Forget(Train):
    """Send one `train.forget` message to each client that asked, and adopt what they hand back.

    Args:
        grid: the metered grid.
        clients: who asked to be forgotten.
        options: as for `Train`.
    """

    action = "train.forget"

    def __init__(self, grid: MeteredGrid, clients: Iterable[int], **options: Any) -> None:
        super().__init__(grid, **options)
        self.clients = sorted(clients)

    def sample(self, server_round: int) -> list[int]:
        """Return the nodes of those who asked."""
        del server_round
        return [self.grid.node_of(client) for client in self.clients]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """As `Train`, but every device that asked must answer.

        Raises:
            FedquitError: a device did not answer, or its model was refused.
        """
        arrays, metrics = super().aggregate_train(server_round, replies)
        if metrics is None or metrics["clients"] != len(self.clients):
            said = "; ".join(self.refused) or "the others did not answer"
            raise FedquitError(f"forget: not every one of clients {self.clients} handed back a model ({said})")
        return arrays, metrics
