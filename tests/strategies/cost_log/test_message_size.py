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
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedquit.strategies.cost_log import message_size as wire_module
from fedquit.strategies.cost_log.flower_objects import measure
from fedquit.strategies.cost_log.message_size import WIDEST_ID, MessageSize, measured
from fedquit.strategies.flower_internals import CHUNK_SIZE, become_server_task

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


def wire_of(message: Message) -> MessageSize:
    return next(measured([message]))


def objects_of(wire: MessageSize) -> dict[int, int]:
    return {name: size for part in wire.parts for name, size in zip(part.ids, part.sizes, strict=True)}


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


POOL: list[NDArray[Any]] = [
    np.zeros(3, np.float32),
    np.zeros(3, np.int32),
    np.ones(3, np.float32),
    np.zeros((3, 1)),
    np.array(7),
    np.ones(0),
]
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=3)
NUMBERS = st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False))
LISTS = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=3),
    st.lists(st.floats(allow_nan=False), min_size=1, max_size=3),
)
ARRAYS = st.dictionaries(NAMES, st.sampled_from([Array(array) for array in POOL]), max_size=5).map(ArrayRecord)
METRICS = st.dictionaries(NAMES, NUMBERS | LISTS, max_size=4).map(MetricRecord)
SCALARS: Any = NUMBERS | LISTS | st.booleans() | st.text() | st.binary()
CONFIGS = st.dictionaries(NAMES, SCALARS, max_size=4).map(ConfigRecord)
ANY = st.dictionaries(NAMES, ARRAYS | METRICS | CONFIGS, max_size=4).map(RecordDict)


@given(st.lists(ANY, min_size=1, max_size=4))
@settings(max_examples=150)
def test_whatever_is_sent_sizes_and_what_is_the_same_are_flowers(contents: list[RecordDict]) -> None:
    messages = [message for content in contents for message in pair(content)]
    theirs: dict[str, int] = {}
    seen: set[int] = set()
    for message, wire in zip(messages, measured(messages), strict=True):
        fixed, objects = sent_by_flower(message)
        assert wire.total() == fixed + sum(objects.values())
        assert wire.counted(seen)[1] == fixed + sum(size for name, size in objects.items() if name not in theirs)
        theirs |= objects


def test_a_record_that_many_messages_carry_is_read_once_and_counted_in_each(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[object] = []

    def counted(record: Any) -> Any:
        read.append(record)
        return measure(record)

    monkeypatch.setattr(wire_module, "measure", counted)
    shared = model(1)["arrays"]
    contents = [RecordDict({"arrays": shared, "config": ConfigRecord({"seed": seed})}) for seed in range(5)]
    totals = [wire.total() for wire in measured([pair(content)[0] for content in contents])]
    assert [record is shared for record in read].count(True) == 1
    assert set(totals) == {wire_of(pair(contents[0])[0]).total()}


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("direction", [0, 1], ids=["down", "up"])
def test_serialised_bytes_are_those_of_flower(name: str, direction: int) -> None:
    message = pair(CONTENTS[name]())[direction]
    wire = wire_of(message)
    fixed, objects = sent_by_flower(message)
    assert sorted(objects_of(wire).values()) == sorted(objects.values())
    assert wire.fixed == fixed
    assert wire.total() == fixed + sum(objects.values())


def test_with_flowers_own_ids_it_is_a_few_bytes_less_and_never_more() -> None:
    become_server_task(run_id=2**63 + 5)
    message = Message(model(1), 2**62, "train", group_id="3")
    fixed, objects = sent_by_flower(message)
    assert 0 <= wire_of(message).total() - fixed - sum(objects.values()) <= 2 * 3 * 9


def test_objects_are_the_same_exactly_where_flower_names_them_the_same() -> None:
    messages = [pair(content())[0] for content in CONTENTS.values()] + [pair(model(seed))[0] for seed in (3, 4, 3)]
    ours: set[int] = set()
    theirs: dict[str, int] = {}
    for message in messages:
        ours |= set(objects_of(wire_of(message)))
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
    assert wire_of(pair(RecordDict({"metrics": odd}))[0]).total() > 0
