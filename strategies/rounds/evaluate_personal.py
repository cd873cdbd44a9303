"""Evaluate the personalised models on their devices; where no model is global, nobody else can."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import ConfigRecord, Message, MessageType, RecordDict

from fedquit.errors import BadReplyError
from fedquit.strategies.grid.metered_grid import MeteredGrid
from fedquit.strategies.guard.reply_checks import SHA256, checked_content, checked_metrics
from fedquit.strategies.rounds.reply import OnReply

ACTION = f"{MessageType.EVALUATE}.own"
Read = Callable[[int, Mapping[str, float]], dict[str, float]]


@dataclass(frozen=True, slots=True)
class OwnModel:
    """What a device reports of its personalised model: metrics, and the SHA-256 of its file."""

    measures: dict[str, float]
    sha256: str


def poll(
    grid: MeteredGrid, clients: Sequence[int], config: Mapping[str, float | str], read: Read, on_refused: OnReply
) -> dict[int, OwnModel]:
    """Return what each client reports of its personalised model, in the order of their numbers.

    Args:
        grid: the metered grid; messages are logged under phase evaluate, and its present round.
        clients: whom to ask.
        config: sent to each.
        read: from a client and the numbers it said to its measures; refuses with a BadReplyError.
        on_refused: called with every reply that is refused: the client, and why.
    """
    record = ConfigRecord(dict(config))
    nodes, group, ttl = [grid.node_of(client) for client in clients], str(grid.server_round), grid.patience
    messages = [Message(RecordDict({"config": record}), node, ACTION, group_id=group, ttl=ttl) for node in nodes]
    found: dict[int, OwnModel] = {}
    for reply in grid.send_and_receive(messages):
        client = grid.client_of(reply)
        try:
            found[client] = _read(reply, client, read)
        except BadReplyError as reason:
            on_refused(client, str(reason))
    return dict(sorted(found.items()))


def _read(reply: Message, client: int, read: Read) -> OwnModel:
    checked_content(reply)
    _, numbers = checked_metrics(reply)
    numbers.pop("cpu-seconds", None)
    said = dict(reply.content.config_records.get("model") or {}).get("sha256")
    if not isinstance(said, str) or not SHA256.fullmatch(said):
        raise BadReplyError("it does not say the SHA-256 of its model")
    return OwnModel(read(client, numbers), said)
