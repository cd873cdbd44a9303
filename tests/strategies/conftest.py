"""A federation of hand-made clients: each answers with what a plain function returns."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from fedquit.simulations.engine.inprocess import InProcessGrid
from fedquit.strategies.grid.array_record import record_of
from fedquit.strategies.grid.metered_grid import MeteredGrid

ClientReply = Callable[[int, Message], RecordDict]


def hand_made_app(answer: ClientReply, sizes: Sequence[int], numbering: Sequence[int]) -> ClientApp:
    app = ClientApp()

    def client_of(context: Context) -> int:
        return numbering[int(context.node_config["partition-id"])]

    @app.query()
    def describe(message: Message, context: Context) -> Message:
        client = client_of(context)
        metrics = MetricRecord({"partition-id": client, "num-examples": sizes[client], "num-partitions": len(sizes)})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(answer(client_of(context), message), reply_to=message)

    @app.train("forget")
    def forget(message: Message, context: Context) -> Message:
        return Message(answer(client_of(context), message), reply_to=message)

    return app


@pytest.fixture
def connect() -> Iterator[Callable[..., MeteredGrid]]:
    """Connect hand-made clients with `sizes` samples; node number k is client `numbering[k]`."""
    grids = []

    def connected(
        answer: ClientReply,
        sizes: Sequence[int] = (10, 20, 30),
        numbering: Sequence[int] | None = None,
        engine: type[InProcessGrid] = InProcessGrid,
    ) -> MeteredGrid:
        app = hand_made_app(answer, sizes, numbering or range(len(sizes)))
        grids.append(engine(len(sizes), {}, client_app=app))
        return MeteredGrid(grids[-1], patience=600)

    yield connected
    for grid in grids:
        grid.close()


@pytest.fixture
def reply_with() -> Callable[..., RecordDict]:
    """Build the content of a reply: arrays, number of samples, loss."""

    def content(arrays: dict[str, NDArray[np.float32]], count: float = 1, loss: float = 0.5) -> RecordDict:
        record = record_of(arrays)
        return RecordDict({"arrays": record, "metrics": MetricRecord({"num-examples": count, "loss": loss})})

    return content
