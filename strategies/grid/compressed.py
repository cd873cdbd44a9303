"""Compress what a strategy sends and decode what comes back: between the strategy, which sees models, and the wire.

It is part of the grid, so that every strategy works with it, Flower's too. A reply that cannot be decoded becomes an
error reply that says why; so it is refused where all bad replies are, and the round continues.
"""

from copy import copy
from typing import Any

from flwr.app import ArrayRecord, Error, Message, RecordDict
from numpy.typing import NDArray

from fedquit.client.compression.build_compression import Compression
from fedquit.client.compression.codecs import Slot, slot_of
from fedquit.errors import InputError
from fedquit.strategies.grid.array_record import arrays_of_record, record_of

MODEL = "arrays"
"""The record that holds a model; others travel as they are."""
ERROR = "compression-error"
CANNOT_DECODE = 400
MOST_ERROR = 1e9

Model = tuple[dict[str, NDArray[Any]], dict[str, Slot]]


class Exchange:
    """Some questions and the replies to them.

    Args:
        compression: how models travel.
        errors: is given the relative errors of models, "down" as measured here, "up" as the devices say.
    """

    def __init__(self, compression: Compression, errors: dict[str, list[float]]) -> None:
        self._compression, self._errors = compression, errors
        self._compressed: dict[int, tuple[ArrayRecord, ArrayRecord]] = {}
        self._got: dict[int, Model] = {}

    def request(self, message: Message) -> Message:
        """Return `message` with its model compressed; a model that several carry is compressed once."""
        if self._compression == Compression():
            return message
        record = message.content.array_records.get(MODEL)
        if record is None:
            return message
        if id(record) not in self._compressed:
            self._compressed[id(record)] = record, self._compress(record)
        metadata, compressed = message.metadata, self._compressed[id(record)][1]
        content = RecordDict({**message.content, MODEL: compressed})
        return Message(
            content, metadata.dst_node_id, metadata.message_type, ttl=metadata.ttl, group_id=metadata.group_id
        )

    def reply_to(self, reply: Message, asked: Message) -> Message:
        """Return the reply to a message of `request` with its model decoded, or an error reply that says why not."""
        chain = self._compression.up
        if chain is None:
            return reply
        records = reply.content.array_records if reply.has_content() else {}
        known = self._got.get(id(asked.content.array_records.get(MODEL)))
        if known is None or len(records) != 1:  # the guard says what is wrong with other numbers
            return reply
        ((name, record),), (received, slots) = records.items(), known
        try:
            model = chain.decode({key: array.data for key, array in record.items()}, slots, received)
        except InputError as reason:
            return Message(Error(CANNOT_DECODE, str(reason)), reply_to=asked)
        self._errors.setdefault("up", []).extend(_said(reply))
        decoded = copy(reply)
        decoded.content = RecordDict({**reply.content, name: record_of(model)})
        return decoded

    def _compress(self, record: ArrayRecord) -> ArrayRecord:
        """Return a model compressed, and remember what devices decode from it."""
        model, chain = arrays_of_record(record), self._compression.down
        slots = {name: slot_of(array) for name, array in model.items()}
        if chain is None:
            self._got[id(record)] = model, slots
            return record
        compressed = chain.encode(model)
        travels = record_of(compressed.arrays)
        self._got[id(travels)] = compressed.received, slots
        self._errors.setdefault("down", []).append(compressed.error)
        return travels


def _said(reply: Message) -> list[float]:
    """Return the error that a device says its message has, if it says so in a usable number."""
    said = [metrics.get(ERROR) for metrics in reply.content.metric_records.values()]
    return [float(value) for value in said if isinstance(value, int | float) and 0 <= value <= MOST_ERROR]
