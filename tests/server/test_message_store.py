"""What a finished request removes from Flower's database is readable nowhere, and late replies stay out."""

import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.common.constant import NOOP_FLWR_AID
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.superlink.federation import NoOpFederationManager

from fedquit.client.receipts import read_receipt
from fedquit.client.receipts.receipt_text import lines
from fedquit.server.message_store import DATABASE, Remains, erase_messages
from fedquit.strategies.flower_internals import become_server_task
from fedquit.strategies.grid.array_record import record_of
from tests.harness.rehearsal import rehearse

PIECE = 64
"""Bytes of a model that are looked for in one piece."""


class SuperLink:
    """The state of a SuperLink on disk, as Flower keeps it, with one node and one run."""

    def __init__(self, folder: Path) -> None:
        self.database, self.random = folder / "state.db", np.random.default_rng(0)
        path = str(self.database)
        self.state: Any = LinkStateFactory(path, NoOpFederationManager(), ObjectStoreFactory(path)).state()
        self.node = self.state.create_node(NOOP_FLWR_AID, "", b"key", 30.0)
        self.state.activate_node(self.node, 30.0)
        self.run = self.state.create_run(
            "f/app", "1", "", {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        become_server_task(self.run)
        self.pieces: list[bytes] = []

    def model(self) -> ArrayRecord:
        """Return a model of random weights, and remember pieces of it."""
        arrays = {f"layer{place}": self.random.normal(size=20_000).astype("float32") for place in range(3)}
        self.pieces += [a.tobytes()[at : at + PIECE] for a in arrays.values() for at in (0, 40_000, 79_900)]
        return record_of(arrays)

    def send(self) -> Message:
        """Store a message with a model for the node."""
        message = Message(RecordDict({"arrays": self.model()}), self.node, "train")
        assert self.store(message)
        return message

    def reply(self, message: Message) -> bool:
        """Have the node send a model back; say whether it was taken."""
        self.state.get_message_ins(self.node, limit=1)
        reply = Message(RecordDict({"arrays": self.model()}), reply_to=message)
        reply.metadata._src_node_id = self.node  # type: ignore[attr-defined]
        return self.store(reply)

    def store(self, message: Message) -> bool:
        message.metadata.__dict__["_message_id"] = message.object_id
        session = self.state.start_session(self.run)
        taken, missing = self.state.store_message_and_object_tree(message, get_object_tree(message), session)
        objects = get_all_nested_objects(message)
        for name in missing:
            assert self.state.store_object(self.run, session, name, objects[name].deflate())
        return bool(taken)

    def deliver(self, message: Message) -> None:
        """Delete a message and its reply as Flower does when they are delivered."""
        (reply,) = self.state.get_message_res({message.metadata.message_id}, self.run)
        self.state.delete_messages({message.metadata.message_id})
        for delivered in (message.metadata.message_id, reply.metadata.message_id):
            self.state.object_store.delete(delivered)

    def readable(self) -> int:
        """Return how many pieces of models lie in the files of the database."""
        files = [path.read_bytes() for path in self.database.parent.glob("state.db*")]
        return sum(any(piece in content for content in files) for piece in self.pieces)


@pytest.fixture
def superlink(tmp_path: Path) -> SuperLink:
    return SuperLink(tmp_path)


def test_no_piece_of_a_removed_model_is_readable_in_flowers_database(superlink: SuperLink) -> None:
    for _ in range(10):
        message = superlink.send()
        assert superlink.reply(message)
        superlink.deliver(message)
    assert superlink.readable() > 0, "Flower's own delete leaves pieces"
    assert superlink.reply(superlink.send()), "nobody fetches it"
    assert erase_messages(superlink.database) == Remains(0, overwritten=True)
    assert superlink.readable() == 0


def test_a_reply_that_comes_after_the_purge_leaves_nothing(superlink: SuperLink) -> None:
    message = superlink.send()
    erase_messages(superlink.database)
    assert not superlink.reply(message)
    assert superlink.readable() == 0
    assert superlink.reply(superlink.send()), "what is asked afterwards is answered"


def test_messages_are_removed_while_the_superlink_works_on_its_database(superlink: SuperLink) -> None:
    over, failed = threading.Event(), list[BaseException]()

    def beat() -> None:
        try:
            while not over.is_set():
                assert superlink.state.acknowledge_node_heartbeat(superlink.node, 30.0)
        except BaseException as error:
            failed.append(error)

    for _ in range(10):
        superlink.send()
    beating = threading.Thread(target=beat)
    beating.start()
    try:
        remains = erase_messages(superlink.database)
    finally:
        over.set()
        beating.join()
    assert not failed
    assert remains == Remains(0, overwritten=True)
    assert superlink.readable() == 0


def test_what_could_not_be_overwritten_is_stated_with_the_reason(superlink: SuperLink) -> None:
    superlink.send()
    with closing(sqlite3.connect(superlink.database, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM objects").fetchall()
        remains = erase_messages(superlink.database, patience=0.1)
    assert remains is not None
    assert not remains.overwritten
    assert remains.facts()["reason"] == "the database was busy"


def test_where_flower_has_no_database_nothing_is_claimed(tmp_path: Path) -> None:
    assert erase_messages(tmp_path / "state.db") is None


def test_the_receipt_states_what_is_left_of_messages_in_flowers_database(tmp_path: Path) -> None:
    rehearsal = rehearse(tmp_path / "made", {"forgetting": {"recover-rounds": 1}}, devices=2, samples=80)
    database = rehearsal.server / DATABASE
    database.parent.mkdir()
    superlink = SuperLink(database.parent)
    assert superlink.reply(superlink.send()), "nobody fetches it"
    rehearsal.run(rehearsal.grid(), rounds=1)
    assert superlink.readable() > 0
    request = rehearsal.ask(rehearsal.signed(1, rehearsal.digests(1)[:8]))
    rehearsal.run(rehearsal.grid(), rounds=1)
    with rehearsal.ledger() as ledger:
        envelope = ledger.request(request.id).receipt or b""
    key: Any = load_pem_public_key((rehearsal.server / "receipts.pub").read_bytes())
    receipt = read_receipt(envelope, key)
    assert receipt.predicate["purged"]["messages"] == {"remaining": 0, "overwritten": True}
    assert "messages   none is left in the server's database" in lines(receipt, model_checked=False)
    assert superlink.readable() == 0
