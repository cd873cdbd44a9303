"""What a message comes to: its payload, and how many bytes Flower sends for it.

One request carries the message without its content and the tree of its objects' names; then every object follows
that the other side does not have (`flower_objects.py`). Within a message, an object that occurs twice, such as two
biases that are all zero, follows once.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from flwr.app import Message

from fedquit.strategies.cost_log.flower_objects import (
    NAME,
    Measured,
    Part,
    count_bytes,
    deflated,
    measure,
    node,
    references,
)
from fedquit.strategies.flower_internals import SUPERLINK_NODE_ID, MessageProto, MetadataProto, RecordDictProto

WIDEST_ID = 2**64 - 1
"""Stands in for the ids of run, nodes and tasks, which are random: real ones take as many bytes, or one less."""


class MessageSize(NamedTuple):
    """What a message is on the wire.

    Attributes:
        fixed: bytes of its metadata, its tree, and its own object: no other message has the same.
        parts: every other object; one that is in two parts travels once.
        payload: bytes of its records' content, as Flower's `count_bytes` counts them.
    """

    fixed: int
    parts: tuple[Part, ...]
    payload: int = 0

    def total(self) -> int:
        """Return the bytes of the message.

        >>> MessageSize(20, (Part((1, 2), (90, 7)), Part((2,), (7,)))).total()
        117
        """
        return self.counted(set())[0]

    def counted(self, seen: set[int]) -> tuple[int, int]:
        """Return the bytes of the message, and those without the objects in `seen`, and put its own there.

        >>> MessageSize(20, (Part((1, 2), (90, 7)), Part((3,), (5,)))).counted({1, 2})
        (122, 25)
        """
        ids = [identity for part in self.parts for identity in part.ids]
        own = set(ids)
        if len(own) == len(ids):
            whole = self.fixed + sum([sum(part.sizes) for part in self.parts])
            if seen.isdisjoint(own):
                seen |= own
                return whole, whole
        else:
            nothing = set[int]()
            whole = self.fixed + sum([part.unseen(nothing) for part in self.parts])
        return whole, self.fixed + sum([part.unseen(seen) for part in self.parts])


def measured(messages: Sequence[Message]) -> Iterator[MessageSize]:
    """Yield what each message comes to, ids being as wide as they can be; all must have content.

    A record that several of them carry is read once.

    >>> from flwr.app import ConfigRecord, RecordDict
    >>> from fedquit.strategies.flower_internals import become_server_task
    >>> _ = become_server_task(run_id=1)
    >>> (wire,) = measured([Message(RecordDict({"config": ConfigRecord({"lr": 0.1})}), 7, "train")])
    >>> wire.payload, wire.total() > wire.payload
    (10, True)
    """
    known: dict[int, Measured] = {}
    for message in messages:
        for record in message.content.values():
            if id(record) not in known:
                known[id(record)] = measure(record)
        yield _size_of(message, [known[id(record)] for record in message.content.values()])


def payload_of(message: Message) -> int:
    """Return the bytes of the content of a message's records, without reading them.

    >>> from flwr.app import ConfigRecord, RecordDict
    >>> from fedquit.strategies.flower_internals import become_server_task
    >>> _ = become_server_task(run_id=1)
    >>> payload_of(Message(RecordDict({"config": ConfigRecord({"lr": 0.1})}), 7, "train"))
    10
    """
    return sum(map(count_bytes, message.content.values()))


def _size_of(message: Message, records: list[Measured]) -> MessageSize:
    kind = message.metadata
    return size_of(
        tuple(message.content), records, kind.message_type, kind.group_id, is_reply=bool(kind.reply_to_message_id)
    )


def size_of(
    names: tuple[str, ...], records: Sequence[Measured], message_type: str, group_id: str, *, is_reply: bool
) -> MessageSize:
    """Return what a message of these records comes to."""
    trees = {record.part.ids[0]: record.tree for record in records}
    size, tree = _laid_out(names, tuple(trees.values()))
    identity = hash((names, tuple([record.part.ids[0] for record in records])))
    parts = (Part((identity,), (size,)), *[record.part for record in records])
    return MessageSize(_own(message_type, group_id, is_reply) + tree, parts, sum([r.payload for r in records]))


@lru_cache(maxsize=64)
def _laid_out(names: tuple[str, ...], trees: tuple[int, ...]) -> tuple[int, int]:
    """Return the bytes of a RecordDict and of the tree of its message."""
    return deflated("RecordDict", len(trees), references(names)), node((node(trees),))


@lru_cache(maxsize=64)
def _own(message_type: str, group_id: str, is_reply: bool) -> int:
    """Return the bytes of a message's own object, with those of the message that travels ahead of its objects."""
    metadata = MetadataProto(
        run_id=WIDEST_ID,
        src_node_id=WIDEST_ID if is_reply else SUPERLINK_NODE_ID,
        dst_node_id=SUPERLINK_NODE_ID if is_reply else WIDEST_ID,
        src_task_id=None if is_reply else WIDEST_ID,
        dst_task_id=WIDEST_ID if is_reply else None,
        reply_to_message_id=NAME if is_reply else "",
        group_id=group_id,
        ttl=1.0,
        message_type=message_type,
        created_at=1.0,
    )
    own = deflated("Message", 1, MessageProto(metadata=metadata).ByteSize())
    metadata.message_id = NAME
    return own + MessageProto(metadata=metadata, content=RecordDictProto()).ByteSize()
