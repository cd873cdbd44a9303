"""Evaluate a model on the devices' own samples."""

from collections.abc import Iterator, Mapping, Sequence

from flwr.app import ConfigRecord, Message, MessageType, RecordDict

from fedquit.errors import BadReplyError
from fedquit.strategies.grid.array_record import record_of
from fedquit.strategies.grid.metered_grid import MeteredGrid
from fedquit.strategies.guard.reply_checks import checked_content, checked_metrics
from fedquit.strategies.rounds.reply import OnReply
from fedquit.unlearning.tensors.convert import Arrays

SHARES = ("accuracy", "forget-accuracy")
"""Metrics that are shares."""


def measure(
    grid: MeteredGrid,
    clients: Sequence[int],
    arrays: Arrays,
    config: Mapping[str, float | str],
    on_reply: OnReply = lambda _client, _reason: None,
    *,
    own: Mapping[int, Mapping[str, float | str]] | None = None,
) -> Iterator[tuple[int, int, dict[str, float]]]:
    """Send `arrays` to `clients`; yield of each reply the client, its number of samples and metrics such as `accuracy`.

    Args:
        grid: the metered grid; messages are logged under the phase "evaluate".
        clients: whom to ask.
        arrays: the model.
        config: sent along, such as which samples are meant.
        on_reply: called with every reply: the client, and why it was refused, or None.
        own: client -> what it alone is sent along.
    """
    own, record = own or {}, record_of(arrays)
    content = RecordDict({"arrays": record, "config": ConfigRecord(dict(config))})
    contents = {
        client: RecordDict({"arrays": record, "config": ConfigRecord({**config, **more})})
        for client, more in own.items()
    }
    group, ttl = str(grid.server_round), grid.patience
    messages = [
        Message(contents.get(client, content), grid.node_of(client), MessageType.EVALUATE, group_id=group, ttl=ttl)
        for client in clients
    ]
    for reply in grid.send_and_receive(messages):
        client = grid.client_of(reply)
        try:
            checked_content(reply)
            count, metrics = checked_metrics(reply)
            for name in SHARES:
                if not 0 <= metrics.get(name, 0.0) <= 1:
                    raise BadReplyError(f"{name} is {metrics[name]!r}, not from 0 to 1")
        except BadReplyError as reason:
            on_reply(client, str(reason))
        else:
            on_reply(client, None)
            yield client, count, metrics
