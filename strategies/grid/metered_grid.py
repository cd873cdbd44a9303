"""A proxy round any Flower Grid: it knows who the nodes are, leaves some out, and counts what travels.

Wrapping the grid and not the strategy keeps every strategy of Flower's usable as it is.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from flwr.app import Error, Message, MessageType, MetricRecord
from flwr.serverapp import Grid

from fedquit.client.compression.build_compression import Compression
from fedquit.errors import FedquitError
from fedquit.strategies.cost_log.cost_log import Costs
from fedquit.strategies.cost_log.cost_rows import Direction, Row
from fedquit.strategies.cost_log.message_size import MessageSize, measured, payload_of
from fedquit.strategies.flower_internals import NodeInfo
from fedquit.strategies.grid.compressed import Exchange
from fedquit.strategies.grid.node_identity import Member, Present, join, recognise
from fedquit.strategies.grid.summed_log import SummedLog
from fedquit.strategies.grid.summed_replies import PlainRound, SummedReply, SumsReplies
from fedquit.strategies.grid.wrapped_grid import WrappedGrid
from fedquit.strategies.message_content import records_of
from fedquit.unlearning.tensors.convert import Arrays
from fedquit.unlearning.tensors.exact_mean import ExactMean

NO_REPLY = 900
CORES = 256
"""Largest believed ratio of a device's processor seconds to the seconds that its reply took."""
TWICE = "that message is answered already"
LATE = "it answers no message of this round"


class MeteredGrid(WrappedGrid):
    """Show the members that take part, in the order of their identity, and log the cost of every message.

    Args:
        grid: what carries the messages.
        members: who the nodes are, by node; None: those of a fixed federation, who are all waited for.
        patience: seconds to wait for replies, until it is set again.
        timeout: seconds to wait for the members.

    Attributes:
        patience: seconds to wait for replies. There is no way to wait for ever.
        on_stray: called with every reply to no message that is waited for: its claimed sender, and facts of it.
        on_doubted: called with an implausible number in a reply, which is removed from it: the client, and facts.
    """

    def __init__(
        self, grid: Grid, members: Mapping[int, Member] | None = None, *, patience: float, timeout: float = 3600.0
    ) -> None:
        super().__init__(grid)
        self.costs = Costs()
        self.compression = Compression()
        self.errors: dict[str, list[float]] = {}
        self._pushed: dict[str, tuple[Message, Exchange, float]] = {}
        self._under_way: list[tuple[Message, Message]] = []  # as sent, and uncompressed
        self.phase = "join"
        self.server_round = 0
        self.excluded: frozenset[int] = frozenset()
        self.patience = patience
        self.on_stray: Callable[[int | None, dict[str, Any]], None] = lambda _member, _facts: None
        self.on_doubted: Callable[[int, dict[str, Any]], None] = lambda _client, _facts: None
        self.members = join(grid, timeout) if members is None else members

    @property
    def patience(self) -> float:
        """See `MeteredGrid`."""
        return self._patience

    @patience.setter
    def patience(self, seconds: float) -> None:
        self._patience = _limited(seconds)

    @property
    def members(self) -> Mapping[int, Member]:
        """Who the nodes are at present: node -> member."""
        return self._members

    @members.setter
    def members(self, members: Mapping[int, Member]) -> None:
        self._members = members
        self._in_order = sorted((member.client, node_id) for node_id, member in members.items())
        self._nodes = {member.client: node_id for node_id, member in reversed(list(members.items()))}

    def meet(self, enrolled: Mapping[str, Member]) -> Present:
        """Have the members be those of the `enrolled` (fingerprint -> member) who are connected now; return them."""
        present = recognise(self._grid, enrolled)
        self.members = present.members
        return present

    def begin(self, phase: str, server_round: int, excluded: Iterable[int] = ()) -> None:
        """Log what follows under this round, and hide the `excluded` clients."""
        self.phase, self.server_round, self.excluded = phase, server_round, frozenset(excluded)
        self.errors = {}

    def compression_error(self, direction: Direction) -> float | None:
        """Return the mean relative error of the models since `begin`; None: none was compressed."""
        errors = self.errors.get(direction)
        return math.fsum(errors) / len(errors) if errors else None

    def node_of(self, client: int) -> int:
        """Return the node that is `client` at present."""
        if client not in self._nodes:
            raise FedquitError(f"client {client} is not connected")
        return self._nodes[client]

    def get_node_ids(self) -> list[int]:
        """Return the nodes that take part, ordered by client."""
        return [node_id for client, node_id in self._in_order if client not in self.excluded]

    def get_nodes(self) -> list[NodeInfo]:
        """Return what Flower knows of the nodes that take part, ordered by client."""
        known = {node.node_id: node for node in self._grid.get_nodes()}
        return [known[node_id] for node_id in self.get_node_ids() if node_id in known]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Send `messages`, and yield one reply to each, logged under the client that was asked.

        The sender is known by the message it answers: the error that stands in for a lost node's reply names
        another node. Who does not answer within `timeout` (or `patience`) seconds is given an error for a reply.
        """
        exchange, plain = Exchange(self.compression, self.errors), list(messages)
        sent, started = self._sent(plain, exchange), time.perf_counter()
        self._under_way = list(zip(sent, plain, strict=True))
        patience = self.patience if timeout is None else _limited(timeout)
        waiting: dict[str, Message] = {}
        replied = set[str]()
        try:
            for reply in self._grid.send_and_receive(sent, timeout=patience):
                of = reply.metadata.reply_to_message_id
                if of not in waiting:  # messages are named when they are sent, and some grids send one by one
                    waiting = {m.metadata.message_id: m for m in sent if m.metadata.message_id not in replied}
                asked = waiting.pop(of, None)
                if asked is None:
                    self._tell_stray(reply, TWICE if of in replied else LATE)
                    continue
                replied.add(of)
                after = time.perf_counter() - started
                yield self._received(reply, asked, exchange, seconds=after, at_most=after * CORES)
            for message in sent:
                if message.metadata.message_id not in replied:
                    lost = Message(Error(NO_REPLY, f"no answer within {patience:.0f} s"), reply_to=message)
                    yield _sent_by(lost, message.metadata.dst_node_id)
        finally:
            self._under_way = []
            self.costs.settle()

    def can_sum(self, arrays: Arrays) -> bool:
        """Say whether the grid can sum replies where they are made: `sum_replies`."""
        inner = self._grid
        return self.compression == Compression() and isinstance(inner, SumsReplies) and inner.can_sum(arrays)

    def sum_replies(self, plain: PlainRound, mean: ExactMean) -> Iterator[tuple[int, SummedReply]]:
        """Carry out a round whose replies are summed where they are made, and yield each with its client.

        The cost log has the rows of the messages that `send_and_receive` would have carried.
        """
        if not isinstance(self._grid, SumsReplies):
            raise TypeError("this grid sums no replies: see can_sum")
        started = time.monotonic()
        try:
            replies = self._grid.sum_replies(plain, mean, timeout=self.patience)
            log = SummedLog(self.costs, self.phase, self.server_round, plain)  # while the first are trained
            for node in plain.seeds:
                log.request(self.members[node].client, node)
            self.costs.settle()  # now, while clients train: after the last reply it would delay the round
            for reply in replies:
                client = self.members[reply.node].client
                log.reply(client, reply, seconds=max(0.0, reply.ready - started))
                yield client, reply
        finally:
            self.costs.settle()

    def _tell_stray(self, reply: Message, why: str) -> None:
        """Have a reply named that is not used."""
        said, about = self.members.get(reply.metadata.src_node_id), reply.metadata
        facts = {"phase": self.phase, "step": self.server_round, "kind": about.message_type, "reason": why}
        self.on_stray(said.client if said else None, {**facts, "answers": about.reply_to_message_id})

    def _sent(self, plain: list[Message], exchange: Exchange) -> list[Message]:
        """Compress and log messages."""
        compressed = [exchange.request(message) for message in plain]
        self._log_requests(compressed, plain)
        return compressed

    def log_again(self, message: Message) -> None:
        """Log a message of the present exchange once more: the wrapped grid sends it again."""
        plain = next((before for sent, before in self._under_way if sent is message), message)
        self._log_requests([message], [plain])

    def _received(
        self, reply: Message, request: Message, exchange: Exchange, *, seconds: float, at_most: float
    ) -> Message:
        """Decode and log a reply, which took `seconds`; it is the node's that was asked.

        The processor seconds that it says it took are left out of it where they are more than `at_most`, or no number.
        """
        decoded, node_id = exchange.reply_to(reply, request), request.metadata.dst_node_id
        self._log_reply(reply, node_id, decoded, seconds=seconds, at_most=at_most)
        self._check_time(decoded, self.members[node_id].client, at_most)
        return _sent_by(decoded, node_id)

    def _check_time(self, reply: Message, client: int, at_most: float) -> None:
        """Take processor seconds that cannot be out of a reply, and tell of them."""
        for record in _metrics_of(reply):
            if "cpu-seconds" in record and not _is_time(record["cpu-seconds"], at_most):
                facts = {"phase": self.phase, "step": self.server_round, "what": "cpu-seconds"}
                said = repr(record.pop("cpu-seconds"))[:40]
                self.on_doubted(client, {**facts, "said": said, "at_most": round(at_most, 3)})

    def client_of(self, reply: Message) -> int:
        """Return the client that a reply of `send_and_receive` came from."""
        return self.members[reply.metadata.src_node_id].client

    def _log_requests(self, compressed: Iterable[Message], plain: Iterable[Message]) -> None:
        """Add a row for each message with content; what several of them carry is measured once."""
        with_content = [
            (message, before) for message, before in zip(compressed, plain, strict=True) if message.has_content()
        ]
        for (message, before), wire in zip(
            with_content, measured([message for message, _ in with_content]), strict=True
        ):
            self.costs.record(self._row(message, message.metadata.dst_node_id, "down", wire, before), wire)

    def _log_reply(self, reply: Message, node_id: int, plain: Message, *, seconds: float, at_most: float) -> None:
        """Add a row for a reply with content, which came `seconds` after it was asked for."""
        if reply.has_content():
            (wire,) = measured([reply])
            row = self._row(reply, node_id, "up", wire, plain)
            self.costs.record(row._replace(seconds=seconds, device_seconds=_device_seconds(reply, at_most)), wire)

    def _row(self, message: Message, node_id: int, direction: Direction, wire: MessageSize, plain: Message) -> Row:
        """Return the row of a message; `plain` is it uncompressed."""
        evaluates = message.metadata.message_type.startswith(MessageType.EVALUATE)
        phase, client = "evaluate" if evaluates else self.phase, self.members[node_id].client
        saved = 0
        if plain is not message and plain.has_content():
            saved = payload_of(plain) - wire.payload
        return Row(phase, self.server_round, client, direction, wire.payload, 0, 0, saved_bytes=saved)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Compress, log and send, without waiting."""
        exchange = Exchange(self.compression, self.errors)
        sent = self._sent(list(messages), exchange)
        self.costs.settle()
        names, now = list(self._grid.push_messages(sent)), time.perf_counter()
        self._pushed.update((name, (message, exchange, now)) for name, message in zip(names, sent, strict=True))
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterator[Message]:
        """Yield, decoded and logged, the replies that have come; how long they took is not known here."""
        try:
            for reply in self._grid.pull_messages(message_ids):
                request, exchange, pushed = self._pushed.pop(reply.metadata.reply_to_message_id)
                at_most = (time.perf_counter() - pushed) * CORES
                yield self._received(reply, request, exchange, seconds=0.0, at_most=at_most)
        finally:
            self.costs.settle()


def _limited(seconds: float) -> float:
    """Return the seconds that replies are waited for.

    Raises:
        ValueError: they are no limit.
    """
    if not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise ValueError(f"patience is {seconds!r}: no exchange may wait for ever, give a number of seconds")
    return float(seconds)


def _sent_by(reply: Message, node_id: int) -> Message:
    """Return the reply with its sender's name on it."""
    reply.metadata.__dict__["_src_node_id"] = node_id
    return reply


def _metrics_of(reply: Message) -> list[MetricRecord]:
    return records_of(reply, MetricRecord) if reply.has_content() else []


def _is_time(said: object, at_most: float) -> bool:
    return isinstance(said, int | float) and math.isfinite(said) and 0 <= said <= at_most


def _device_seconds(reply: Message, at_most: float) -> float:
    """Return the processor seconds that a reply says it took, if it says so in a number that can be."""
    for record in _metrics_of(reply):
        said = record.get("cpu-seconds")
        if isinstance(said, int | float) and _is_time(said, at_most):
            return float(said)
    return 0.0
