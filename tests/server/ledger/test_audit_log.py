"""What the audit log promises: any edit shows, and anyone can compute it again."""

import hashlib
import itertools
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import create_engine

from fedquit.errors import FedquitError, InputError
from fedquit.server.ledger import Ed25519Seal, Ledger, NewRequest, Step
from fedquit.server.ledger.audit_log.check import check

Open = Callable[..., Ledger]
Ask = Callable[..., NewRequest]
MakeStep = Callable[..., Step]

SEAL = Ed25519Seal(Ed25519PrivateKey.generate())


@pytest.fixture
def file(tmp_path: Path, ask: Ask, make_step: MakeStep) -> Path:
    """Make a sealed ledger of 10 events about 2 members, 2 requests and 3 steps."""
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'whole.db'}", seal=SEAL)
    ledger.enrol("north", b"key 0")  # 1
    ledger.enrol("south", b"key 1")  # 2
    ledger.add_step(make_step(1, (0, 1)))  # 3
    ledger.add_step(make_step(2, (1,)))  # 4
    id_ = ledger.take(ask())[0].id  # 5
    ledger.take(ask(1, "me too"))  # 6
    ledger.advance(id_, of="asked", to="forgetting", kind="forgetting", withdraw=True)  # 7
    step = make_step(3, (0,), phase="forget", request=id_)
    ledger.advance(id_, of="forgetting", to="recovering", kind="forgot", step=step)  # 8
    ledger.note("purged", request=id_, member=0, facts={"models": ["a" * 64]})  # 9
    ledger.advance(id_, of="recovering", to="done", kind="done", receipt=b"signed")  # 10
    ledger.close()
    return tmp_path / "whole.db"


def wrong_after(file: Path, *statements: str, seal: Ed25519Seal | None = None) -> list[str]:
    """Return what is found wrong with a copy of the ledger on which someone ran these statements."""
    copy = file.with_name("copy.db")
    for old in file.parent.glob("copy.db*"):
        old.unlink()
    shutil.copy(file, copy)
    with sqlite3.connect(copy) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()
    ledger = Ledger.open(f"sqlite:///{copy}", seal=seal or SEAL, write=False)
    try:
        return ledger.check_chain()
    finally:
        ledger.close()


def test_a_ledger_that_no_one_touched_is_sound(file: Path) -> None:
    assert wrong_after(file) == []


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (["UPDATE events SET kind = 'nothing' WHERE number = 4"], ["event 4 was altered"]),
        (["UPDATE events SET facts = facts || ' ' WHERE number = 4"], ["event 4 was altered"]),
        (["UPDATE events SET facts = '{' WHERE number = 9"], ["event 9 was altered"]),
        (["UPDATE events SET digest = previous WHERE number = 4"], ["event 4 was altered", "event 5 does not follow"]),
        (["DELETE FROM events WHERE number = 4"], ["event 4 is missing"]),
        (["DELETE FROM events WHERE number IN (4, 5)"], ["events 4 to 5 are missing"]),
        (["DELETE FROM events WHERE number = 1"], ["event 1 is missing"]),
        (["DELETE FROM events WHERE number >= 9"], ["ends at event 8, but its head is event 10: its tail was cut off"]),
        (
            ["DELETE FROM events WHERE number = 4", "UPDATE events SET number = number - 1 WHERE number > 4"],
            ["event 4 was altered", "event 4 does not follow event 3", "its tail was cut off"],
        ),
        (
            [
                "UPDATE events SET number = 99 WHERE number = 4",
                "UPDATE events SET number = 4 WHERE number = 5",
                "UPDATE events SET number = 5 WHERE number = 99",
            ],
            ["event 4 was altered", "event 5 was altered", "event 4 does not follow"],
        ),
        (
            ["INSERT INTO events SELECT 11, at, kind, request, member, facts, previous, digest FROM events LIMIT 1"],
            ["event 11 was altered", "its head is event 10: events were added past it"],
        ),
        (["DELETE FROM head"], ["there are 0 heads"]),
        (["UPDATE head SET seal = NULL"], ["the head is not sealed"]),
        (["UPDATE head SET seal = 'text'"], ["the head was altered"]),
        (["UPDATE head SET number = 'text'"], ["the head was altered"]),
        (["UPDATE head SET digest = 'ab'"], ["another digest than event 10", "the seal of the head is wrong"]),
        (["UPDATE requests SET status = 'asked' WHERE place = 1"], ["was altered: it is not what event 10 says"]),
        (["UPDATE requests SET place = 3 WHERE place = 2"], ["was altered: it is not what event 6 says"]),
        (["DELETE FROM requests WHERE place = 2"], ["was removed: event 6 says that it is there"]),
        (["UPDATE members SET status = 'active'"], ["member 0 was altered: it is not what event 7 says"]),
        (["UPDATE steps SET model_after = 'b' WHERE number = 2"], ["step 2 was altered: it is not what event 4 says"]),
        (["UPDATE steps SET bytes_up = 9223372036854775807 WHERE number = 2"], ["step 2 was altered"]),
        (["UPDATE contributions SET num_examples = 1 WHERE step = 1 AND member = 1"], ["step 1 was altered"]),
        (["DELETE FROM contributions WHERE step = 1 AND member = 1"], ["step 1 was altered"]),
        (["INSERT INTO contributions VALUES (2, 0, 5, '')"], ["step 2 was altered"]),
        (["INSERT INTO contributions VALUES (9, 0, 5, '')"], ["contribution of member 0 to step 9 was inserted"]),
        (
            ["INSERT INTO members SELECT 2, name, role, 'f', key, status, enrolled_at FROM members WHERE number = 1"],
            ["member 2 is not in the log: it was inserted"],
        ),
    ],
    ids=lambda value: value[0][:60] if isinstance(value, list) and value else "",
)
def test_what_was_tampered_with_is_named(file: Path, statements: list[str], said: list[str]) -> None:
    wrong = wrong_after(file, *statements)
    for text in said:
        assert any(text in line for line in wrong), wrong


def test_bytes_in_the_place_of_their_own_hex_show(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE steps SET model_after = ? WHERE number = 1", (bytes.fromhex(f"{1:064x}"),))
    connection.close()
    assert wrong_after(file) == ["step 1 was altered: it is not what event 3 says"]


def test_the_chain_covers_each_field_of_each_row_and_the_row_itself(file: Path) -> None:
    engine = create_engine(f"sqlite:///{file}")  # without our settings: references are not enforced
    for table in ("members", "requests", "steps", "contributions", "events", "head"):
        with engine.connect() as connection:
            columns = [str(row[1]) for row in connection.exec_driver_sql(f"PRAGMA table_info({table})")]
            rows = [int(row[0]) for row in connection.exec_driver_sql(f"SELECT rowid FROM {table}")]
        edits = [f"UPDATE {table} SET {column} = 1234 WHERE rowid = ?" for column in columns]
        for row, edit in itertools.product(rows, [f"DELETE FROM {table} WHERE rowid = ?", *edits]):
            with engine.connect() as connection:  # nothing is committed
                assert connection.exec_driver_sql(edit, (row,)).rowcount == 1
                if "head SET id" not in edit:  # no fact
                    assert check(connection, SEAL), (row, edit)
    assert wrong_after(file) == []


def test_recomputing_the_whole_chain_fails_without_the_key_of_the_seal(file: Path) -> None:
    ledger = Ledger.open(f"sqlite:///{file.with_name('forged.db')}", seal=Ed25519Seal(Ed25519PrivateKey.generate()))
    ledger.enrol("north", b"key 0")
    ledger.close()
    assert wrong_after(file.with_name("forged.db")) == [
        "the seal of the head is wrong: another key made it, or the head was altered"
    ]


def test_a_log_that_was_put_back_shows_to_who_noted_its_head(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    ledger = Ledger.open(url, seal=SEAL)
    ledger.note("one")
    ledger.close()
    shutil.copy(tmp_path / "ledger.db", tmp_path / "old.db")
    ledger = Ledger.open(url, seal=SEAL)
    ledger.note("two")
    noted = ledger.head()
    ledger.note("three")
    assert ledger.check_chain(noted=noted) == []
    ledger.close()
    old = Ledger.open(f"sqlite:///{tmp_path / 'old.db'}", seal=SEAL)
    assert old.check_chain() == []
    assert old.check_chain(noted=noted) == [
        "event 2 is not the one that was noted: the log was restored from a copy or rewritten"
    ]
    old.close()


def test_without_the_key_or_with_a_wrong_seal_nothing_is_written(open_ledger: Open) -> None:
    open_ledger(seal=SEAL).note("one")
    for seal, said in (
        (None, "open it with the key that seals it"),
        (Ed25519Seal(Ed25519PrivateKey.generate()), "not that of this key"),
    ):
        with pytest.raises(FedquitError, match=said):
            open_ledger(seal=seal).note("two")
    public = Ed25519Seal(SEAL._public)
    with pytest.raises(InputError, match="public key"):
        open_ledger(seal=public).note("two")
    ledger = open_ledger(seal=public, write=False)
    assert ([event.kind for event in ledger.events()], ledger.check_chain()) == (["one"], [])


def test_a_stripped_seal_is_not_replaced_by_the_next_write(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE head SET seal = NULL")
    connection.close()
    ledger = Ledger.open(f"sqlite:///{file}", seal=SEAL)
    with pytest.raises(FedquitError, match="is not sealed"):
        ledger.note("next")
    ledger.close()


def test_a_ledger_is_sealed_with_another_key_only_if_it_is_sound(open_ledger: Open) -> None:
    ledger = open_ledger()
    ledger.note("one")
    ledger.reseal(SEAL)
    assert open_ledger(seal=SEAL).check_chain() == []
    newer = Ed25519Seal(Ed25519PrivateKey.generate())
    ledger.reseal(newer)
    assert ledger.note("two").number == 4
    assert open_ledger(seal=newer).check_chain() == []
    assert open_ledger(seal=SEAL).check_chain() != []
    with ledger._database.write() as connection:
        connection.exec_driver_sql("UPDATE events SET kind = 'none' WHERE number = 1")
    with pytest.raises(FedquitError, match="event 1 was altered"):
        ledger.reseal(SEAL)
    assert len(ledger.events()) == 4


def test_a_third_party_can_compute_every_digest_from_the_export(
    open_ledger: Open, ask: Ask, make_step: MakeStep
) -> None:
    ledger = open_ledger(seal=SEAL)
    ledger.enrol("nörth", b"key")
    ledger.add_step(make_step(1, (0,), measures={}, seconds=3.0, at=7.0))
    id_ = ledger.take(ask())[0].id
    ledger.advance(id_, of="asked", to="forgetting", kind="forgetting", withdraw=True)

    def digest(document: Any) -> str:  # RFC 8785, for documents whose numbers are whole
        whole = json.loads(json.dumps(document), parse_float=lambda number: int(float(number)))
        text = json.dumps(whole, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    lines = [json.loads(json.dumps(line)) for line in ledger.export()]
    previous = "0" * 64
    vouched: dict[str, str] = {}
    for event in (line["row"] for line in lines if line["table"] == "events"):
        assert event["previous"] == previous
        previous = digest({name: value for name, value in event.items() if name != "digest"})
        assert event["digest"] == previous
        vouched |= event["facts"].get("rows", {})
    key = {"members": "number", "requests": "id", "steps": "number"}
    rows = [line for line in lines if line["table"] in key]
    assert vouched == {f"{line['table']}/{line['row'][key[line['table']]]}": digest(line["row"]) for line in rows}
    (head,) = (line["row"] for line in lines if line["table"] == "head")
    assert head["digest"] == previous
    message = b"fedquit ledger head v1\n" + f'{{"digest":"{previous}","number":{head["number"]}}}'.encode()
    assert SEAL.verify(message, bytes.fromhex(head["seal"]["hex"]))
