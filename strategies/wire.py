"""How many bytes Flower sends for a message: its objects, deflated, their tree, and the message's metadata.

Flower takes a message apart into objects named by the SHA-256 of their content: the message, its RecordDict, every
record, every array, and every chunk of an array's data (5 MiB at most). One request carries the message without its
content and the tree of names; then every object follows that the other side does not have. Within a message, an
object that occurs twice, such as two biases that are all zero, follows once.

All names are equally long, so sizes follow from lengths, and nothing is deflated or hashed with SHA-256 to be
measured: that would take longer than some devices train. What must be known is which objects are the same; for that
they are compared by Python's hash of their bytes, 64 bits keyed anew in each process.
"""

import json
from dataclasses import dataclass, field
from functools import lru_cache

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord

from fedquit.strategies.flower_internals import (
    CHUNK_SIZE,
    HEAD_BODY_DIVIDER,
    HEAD_VALUE_DIVIDER,
    SUPERLINK_NODE_ID,
    MessageProto,
    MetadataProto,
    RecordDictProto,
)

NAME = "0" * 64
WIDEST_ID = 2**64 - 1
"""Stands in for the ids of run, nodes and tasks, which are random: real ones take as many bytes, or one less."""


Child = tuple[int, int]
"""An object below another: what it is, and the bytes of its tree."""


@dataclass(slots=True)
class Wire:
    """What a message is on the wire.

    Attributes:
        fixed: bytes of its metadata, its tree, and its own object: no other message has the same.
        objects: every other object, once -> its deflated bytes.
    """

    fixed: int = 0
    objects: dict[int, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Bytes of the whole message."""
        return self.fixed + sum(self.objects.values())


def wire_of(message: Message) -> Wire:
    """Return what Flower sends for a message that has content, ids being as wide as they can be.

    >>> from flwr.app import RecordDict
    >>> from fedquit.strategies.flower_internals import become_server_task
    >>> _ = become_server_task(run_id=1)
    >>> wire = wire_of(Message(RecordDict({"config": ConfigRecord({"lr": 0.1})}), 7, "train"))
    >>> len(wire.objects), wire.total > sum(wire.objects.values())
    (2, True)
    """
    wire, content, told = Wire(), message.content, message.metadata
    records = [_record(record, wire.objects) for record in content.values()]
    tree = _add("RecordDict", tuple(content), records, wire.objects)[1]
    own, sent = _own(told.message_type, told.group_id, bool(told.reply_to_message_id))
    wire.fixed = own + sent + _node((tree,))
    return wire


def _record(record: ArrayRecord | ConfigRecord | MetricRecord, objects: dict[int, int]) -> Child:
    if isinstance(record, ArrayRecord):
        return _add("ArrayRecord", tuple(record), [_array(array, objects) for array in record.values()], objects)
    content = _content(record)
    objects[hash(content)] = len(content)
    return hash(content), LEAF


def _add(kind: str, names: tuple[str, ...], children: list[Child], objects: dict[int, int]) -> Child:
    """Add an object whose body is the names of its children to `objects`, and return it as a child."""
    identity, distinct = hash((kind, names, tuple(child for child, _ in children))), dict(children)
    objects[identity] = _deflated(kind, len(distinct), _references(names))
    return identity, _node(tuple(distinct.values()))


def _content(record: ConfigRecord | MetricRecord) -> bytes:
    """Return a small record deflated; one that Flower cannot deflate could not be sent, and is counted as text."""
    try:
        return record.deflate()
    except (ValueError, TypeError, OverflowError):
        return repr(record).encode()


def _array(array: Array, objects: dict[int, int]) -> Child:
    """Add an array and its chunks to `objects`, and return it as a child."""
    data = array.data
    if 0 < len(data) <= CHUNK_SIZE:
        chunks = [(hash(data), len(data))]
    else:
        view, starts = memoryview(data), range(0, len(data), CHUNK_SIZE)
        chunks = [(hash(part), len(part)) for part in (view[start : start + CHUNK_SIZE] for start in starts)]
    for identity, size in chunks:
        objects[identity] = _deflated("ArrayChunk", 0, size)
    distinct = {identity: position for position, (identity, _) in enumerate(dict.fromkeys(chunks))}
    body = _array_body(array.dtype, array.shape, array.stype, tuple(distinct[identity] for identity, _ in chunks))
    identity = hash((array.dtype, array.shape, array.stype, tuple(chunks)))
    objects[identity] = _deflated("Array", len(distinct), body)
    return identity, _node((LEAF,) * len(distinct))


@lru_cache(maxsize=4096)
def _deflated(kind: str, children: int, body: int) -> int:
    """Return the bytes of a deflated object: a head of its kind, its children's names and its size; and its body."""
    names = children * (len(NAME) + 1) - 1 if children else 0
    return len(kind) + len(HEAD_VALUE_DIVIDER) * 2 + names + len(str(body)) + len(HEAD_BODY_DIVIDER) + body


@lru_cache(maxsize=256)
def _references(names: tuple[str, ...]) -> int:
    """Return the bytes of the body of a record of records or arrays."""
    return len(json.dumps(dict.fromkeys(names, NAME)))


@lru_cache(maxsize=4096)
def _array_body(dtype: str, shape: tuple[int, ...], stype: str, chunks: tuple[int, ...]) -> int:
    return len(json.dumps({"dtype": dtype, "shape": shape, "stype": stype, "arraychunk_ids": chunks}))


@lru_cache(maxsize=256)
def _own(message_type: str, group_id: str, is_reply: bool) -> tuple[int, int]:
    """Return the bytes of a message's own object, and of the message that travels ahead of its objects."""
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
    own = _deflated("Message", 1, MessageProto(metadata=metadata).ByteSize())
    metadata.message_id = NAME
    return own, MessageProto(metadata=metadata, content=RecordDictProto()).ByteSize()


@lru_cache(maxsize=4096)
def _node(children: tuple[int, ...]) -> int:
    """Return the bytes of an ObjectTree with children of these sizes."""
    return 2 + len(NAME) + sum(1 + _varint(child) + child for child in children)


def _varint(value: int) -> int:
    return max(1, (value.bit_length() + 6) // 7)


LEAF = _node(())
