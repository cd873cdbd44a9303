"""Ask some clients to carry out an exercise on a model, and hand on their answers as they come."""

from collections.abc import Iterator, Mapping, Sequence

from flwr.app import ConfigRecord, Message, MessageType, RecordDict

from fedquit.strategies.metered import MeteredGrid
from fedquit.strategies.train import Arrays, OnReply, Reply, checked, record_of

ACTIONS = {"train": str(MessageType.TRAIN), "forget": "train.forget"}


def ask(
    grid: MeteredGrid,
    exercise: str,
    clients: Sequence[int],
    arrays: Arrays,
    config: Mapping[int, Mapping[str, float | str]],
    *,
    extra: Arrays | None = None,
    on_reply: OnReply = lambda _client, _reason: None,
) -> Iterator[Reply]:
    """Send `arrays` to `clients`, and yield the answers that the guard lets through, in the order they come.

    Args:
        grid: the metered grid; messages are accounted to its present phase and round.
        exercise: "train" or "forget".
        clients: whom to ask.
        arrays: the model.
        config: what each client is told.
        extra: more arrays for the exercise.
        on_reply: told of every answer: the client, and why it was refused, or None.
    """
    sent = record_of(arrays)
    records = {"arrays": sent, **({"extra": record_of(extra)} if extra is not None else {})}
    messages = [
        Message(
            RecordDict({**records, "config": ConfigRecord(dict(config[client]))}),
            grid.node_of(client),
            ACTIONS[exercise],
            group_id=str(grid.server_round),
            ttl=grid.patience,
        )
        for client in clients
    ]
    for reply in checked(grid.send_and_receive(messages), sent, grid, on_reply):
        on_reply(reply.client, None)
        yield reply
