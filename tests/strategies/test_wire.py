"""Bytes on the wire: those of what Flower itself would serialise."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree

from fedquit.strategies.flower_internals import CHUNK_SIZE, become_server_task
from fedquit.strategies.wire import WIDEST_ID, wire_of

RANDOM = np.random.default_rng(7)
CONTENTS: dict[str, Callable[[], RecordDict]] = {
    "empty": RecordDict,
    "config": lambda: RecordDict({"config": ConfigRecord({"lr": 0.1, "text": "ä" * 300, "raw": b"\0" * 9})}),
    "model": lambda: model(3),
    "same arrays": lambda: RecordDict({"arrays": ArrayRecord({f"b{i}": Array(np.zeros(9)) for i in range(7)})}),
    "same records": lambda: RecordDict({"a": ConfigRecord({"x": 1}), "b": ConfigRecord({"x": 1})}),
    "many arrays": lambda: RecordDict({"arrays": ArrayRecord({f"ä{i}": Array(RANDOM.random(i)) for i in range(200)})}),
    "scalar and empty": lambda: RecordDict(
        {"arrays": ArrayRecord({"n": Array(np.array(3)), "e": Array(np.zeros((0, 3), dtype=np.int64))})}
    ),
    "several chunks": lambda: RecordDict(
        {"arrays": ArrayRecord({"w": Array(RANDOM.random(CHUNK_SIZE // 8 * 2)), "z": Array(np.zeros(CHUNK_SIZE))})}
    ),
}


def model(seed: int) -> RecordDict:
    random = np.random.default_rng(seed)
    arrays = ArrayRecord({name: Array(random.random(40).astype(np.float32)) for name in ("w", "b")})
    return RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 3, "loss": 0.5, "list": [1, 2]})})


def sent_by_flower(message: Message) -> tuple[int, dict[str, int]]:
    """Return what Flower's HttpGrid and SuperNode serialise: message and tree, and every object by its name."""
    objects = {name: len(found.deflate()) for name, found in get_all_nested_objects(message).items()}
    message.metadata.__dict__["_message_id"] = message.object_id
    ahead = message_to_proto(remove_content_from_message(message)).ByteSize() + get_object_tree(message).ByteSize()
    return ahead + objects.pop(message.object_id), objects


def widest(message: Message) -> Message:
    """Give a message ids such as Flower's are, as wide as they can be."""
    for key in ("run_id", "src_node_id", "dst_node_id", "src_task_id", "dst_task_id"):
        value = message.metadata.__dict__[f"_{key}"]
        if value not in (None, "") and (key not in ("src_node_id", "dst_node_id") or value != 1):
            message.metadata.__dict__[f"_{key}"] = WIDEST_ID
    return message


def pair(content: RecordDict) -> tuple[Message, Message]:
    """Return a message to a node and the node's reply."""
    become_server_task(run_id=WIDEST_ID)
    down = widest(Message(content, 77, "train.forget", group_id="12"))
    down.metadata.__dict__["_message_id"] = "a" * 64
    return down, widest(Message(copy.deepcopy(content), reply_to=down))


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("direction", [0, 1], ids=["down", "up"])
def test_wire_bytes_are_those_that_flower_serialises(name: str, direction: int) -> None:
    message = pair(CONTENTS[name]())[direction]
    wire = wire_of(message)
    fixed, objects = sent_by_flower(message)
    assert sorted(wire.objects.values()) == sorted(objects.values())
    assert wire.fixed == fixed
    assert wire.total == fixed + sum(objects.values())


def test_with_flowers_own_ids_it_is_a_few_bytes_less_and_never_more() -> None:
    become_server_task(run_id=2**63 + 5)
    message = Message(model(1), 2**62, "train", group_id="3")
    fixed, objects = sent_by_flower(message)
    assert 0 <= wire_of(message).total - fixed - sum(objects.values()) <= 2 * 3 * 9


def test_objects_are_the_same_exactly_where_flower_names_them_the_same() -> None:
    messages = [pair(content())[0] for content in CONTENTS.values()] + [pair(model(seed))[0] for seed in (3, 4, 3)]
    ours: set[int] = set()
    theirs: dict[str, int] = {}
    for message in messages:
        ours |= set(wire_of(message).objects)
        theirs |= sent_by_flower(message)[1]
    assert len(ours) == len(theirs)


def test_measuring_leaves_the_message_as_it_was() -> None:
    import pickle

    message = pair(model(1))[0]
    before = pickle.dumps(message)
    wire_of(message)
    assert pickle.dumps(message) == before


def test_a_record_that_flower_cannot_deflate_is_counted_all_the_same() -> None:
    odd: Any = MetricRecord({"num-examples": 1})
    odd.__dict__["_data"]["num-examples"] = 2**80
    assert wire_of(pair(RecordDict({"metrics": odd}))[0]).total > 0
