"""Have some clients carry out an exercise on a model, and yield their replies as they come."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict

from fedquit.client.compression.build_compression import Compression
from fedquit.errors import BadReplyError
from fedquit.strategies.cost_log.message_size import MessageSize, measured
from fedquit.strategies.grid.array_record import record_of
from fedquit.strategies.grid.compressed import Exchange
from fedquit.strategies.grid.metered_grid import MeteredGrid
from fedquit.strategies.rounds.reply import OnReply, Reply
from fedquit.strategies.rounds.train import checked
from fedquit.unlearning.tensors.convert import Arrays
from fedquit.unlearning.tensors.exact_mean import bounds_of

ACTIONS = {"train": str(MessageType.TRAIN), "forget": "train.forget"}


def run_exercise(
    grid: MeteredGrid,
    exercise: str,
    clients: Sequence[int],
    arrays: Arrays,
    config: Mapping[int, Mapping[str, float | str]],
    *,
    extra: Arrays | None = None,
    on_reply: OnReply = lambda _client, _reason: None,
    check: Callable[[Reply], None] = lambda _reply: None,
) -> Iterator[Reply]:
    """Send `arrays` to `clients`, and yield the replies that the guard lets through, in the order they come.

    Args:
        grid: the metered grid; messages are logged under its present phase and round.
        exercise: "train" or "forget".
        clients: whom to ask.
        arrays: the model.
        config: of each client.
        extra: more arrays for the exercise.
        on_reply: called with every reply: the client, and why it was refused, or None.
        check: raises `BadReplyError` for a reply that must not be used, besides those that have no usable form.
    """
    sent = record_of(arrays)
    records = {"arrays": sent, **({"extra": record_of(extra)} if extra is not None else {})}
    messages = [
        _request(exercise, records, config[client], grid.node_of(client), grid.server_round, grid.patience)
        for client in clients
    ]
    for reply in checked(grid.send_and_receive(messages), sent, grid, on_reply):
        try:
            bounds_of(reply.arrays, reply.num_examples)
            check(reply)
        except (OverflowError, BadReplyError) as reason:
            on_reply(reply.client, str(reason))
        else:
            on_reply(reply.client, None)
            yield reply


def weigh(
    exercise: str,
    arrays: Arrays,
    config: Mapping[str, float | str],
    *,
    extra: Arrays | None = None,
    number: int = 1,
    compression: Compression | None = None,
) -> MessageSize:
    """Return the size of one request of `ask` to one client, without sending it.

    Args:
        exercise: "train" or "forget".
        arrays: the model.
        config: of the client.
        extra: more arrays for the exercise.
        number: of the round that it is logged under.
        compression: how models travel.

    >>> import numpy as np
    >>> from fedquit.strategies.flower_internals import become_server_task
    >>> _ = become_server_task(run_id=1)
    >>> weigh("forget", {"w": np.zeros(100)}, {"seed": 3}).payload  # NumPy's header, the names, the numbers
    941
    """
    records = {"arrays": record_of(arrays), **({"extra": record_of(extra)} if extra is not None else {})}
    plain = _request(exercise, records, config, 1, number, None)
    return next(measured([Exchange(compression or Compression(), {}).request(plain)]))


def _request(
    exercise: str,
    records: Mapping[str, ArrayRecord],
    config: Mapping[str, float | str],
    node: int,
    number: int,
    patience: float | None,
) -> Message:
    content = RecordDict({**records, "config": ConfigRecord(dict(config))})
    return Message(content, node, ACTIONS[exercise], group_id=str(number), ttl=patience)
