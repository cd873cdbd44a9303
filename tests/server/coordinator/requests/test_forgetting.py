"""A request to forget in a deployment: a client, some samples, a class; sent to the service or in a reply."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedquit.client.device.record import Record
from fedquit.client.device.record.retire_again import retire_again
from fedquit.errors import FedquitError
from fedquit.server.coordinator import Coordinator
from fedquit.server.coordinator.participants.presence import LISTED, Presence
from fedquit.server.ledger import NewRequest, RequestState
from fedquit.server.service.admission import Rules, decide
from tests.server.coordinator.observed_grid import Make, grid_of, members, read, steps


def test_a_device_that_leaves_is_forgotten_and_never_asked_to_train_again(make: Make) -> None:
    rehearsal = make()
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=2)
    before = steps(rehearsal)
    request = rehearsal.ask(rehearsal.signed(1))
    grid.sent.clear()
    rehearsal.run(grid, rounds=4)
    with read(rehearsal) as ledger:
        told, after = ledger.request(request.id), ledger.steps()[2:]
        assert (told.status, told.method) == ("done", "fedquit")
        assert ledger.member(1).status == "withdrawn"
    assert [step.phase for step in after] == ["forget", *["recover"] * (len(after) - 3), "train", "train"]
    assert [members(step) for step in after] == [[1], *[[0, 2, 3]] * (len(after) - 1)]
    assert [kind for kind, member in grid.sent if member == 1] == ["train.forget", "evaluate"]
    left = {path.stem for path in (rehearsal.server / "models").glob("*.safetensors")}
    assert not left & {step.model_after for step in before}
    assert told.model_after in left


def test_two_asks_to_leave_that_came_in_at_once_are_carried_out_once(make: Make) -> None:
    rehearsal = make()
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=1)
    with rehearsal.ledger() as ledger:  # service and coordinator decide, and only then take
        rules = Rules(rehearsal.federation.name, fresh=1e9)
        asks = [rehearsal.signed(1, nonce=bytes([number]) * 16) for number in (7, 8)]
        decided = [decide(ledger, signed, rules, now=rehearsal.clock()) for signed in asks]
        assert [ledger.take(new)[1] for new in decided if isinstance(new, NewRequest)] == [True, True]
    rehearsal.run(grid, rounds=2)
    with read(rehearsal) as ledger:
        first, second = (ledger.request(signed.id) for signed in asks)
        assert (first.status, second.status) == ("done", "refused")
        assert second.reason.startswith(f"request {first.id[:12]} covers it")
    assert [step.phase for step in steps(rehearsal)].count("forget") == 1


def test_the_rules_of_server_toml_hold_for_piggybacked_requests_too(make: Make) -> None:
    rehearsal = make(asking={"fresh": "1m", "daily-per-key": 1})
    rehearsal.run(grid_of(rehearsal), rounds=1)
    with rehearsal.place(grid_of(rehearsal)) as place:
        now = place.clock()
        signed = rehearsal.signed(1, now=now - 120)
        with pytest.raises(FedquitError, match="at most 60 s"):
            place.admit(signed.ask, signed.signature)


def test_a_device_that_left_and_registers_again_is_asked_nothing(make: Make) -> None:
    rehearsal = make()
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=1)
    rehearsal.ask(rehearsal.signed(1))
    rehearsal.run(grid, rounds=1)
    old, new = 1001, 5000
    tables: tuple[dict[int, Any], ...] = (grid._contexts, grid._keys, grid._members)
    for known in tables:
        known[new] = known.pop(old)
    grid.sent.clear()
    rehearsal.run(grid, rounds=3)
    assert {member for _, member in grid.sent} == {0, 2, 3}


def test_a_device_that_forgets_samples_remains_and_trains_on_the_others(make: Make) -> None:
    rehearsal = make()
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=2)
    gone = rehearsal.digests(1)[:8]
    request = rehearsal.ask(rehearsal.signed(1, gone))
    rehearsal.run(grid, rounds=3)
    with read(rehearsal) as ledger:
        assert ledger.request(request.id).status == "done"
        assert ledger.member(1).status == "active"
    counts = [{given.member: given.num_examples for given in step.contributions}.get(1) for step in steps(rehearsal)]
    assert counts[:3] == [40, 40, 8]
    assert set(counts[3:]) == {32}
    with contextlib.closing(Record(rehearsal.kits()[1].path("record.db"))) as record:
        assert set(record.retired()) == set(gone)


def test_a_class_is_forgotten_by_its_holders_and_dropped_by_latecomers(make: Make) -> None:
    rehearsal = make()
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=2)
    request = rehearsal.ask_for_class(3)
    grid.away = {2}
    rehearsal.run(grid, rounds=3)
    grid.away = set()
    rehearsal.run(grid, rounds=5)
    with read(rehearsal) as ledger:
        assert ledger.request(request.id).status == "done"
        assert [event.member for event in ledger.events() if event.kind == "dropped"] == [2]
    forget, last = steps(rehearsal)[2], steps(rehearsal)[-1]
    assert (forget.phase, members(forget)) == ("forget", [0, 1, 3])
    assert members(last) == [0, 1, 2, 3]
    labels = {kit.number: np.load(kit.path(kit.data))["y"] for kit in rehearsal.kits()}
    for given in last.contributions:
        assert given.num_examples == sum(labels[given.member] != 3)


@pytest.mark.parametrize("method", ["continue", "negate", "retrain"])
def test_a_class_is_dropped_by_every_device_whatever_the_method(make: Make, method: str) -> None:
    """A method of the server's has no procedure for devices, and dropping needs none."""
    rehearsal = make(forgetting={"method": method, "fallback": []})
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=2)
    rehearsal.ask_for_class(3)
    rehearsal.run(grid, rounds=3)
    with read(rehearsal) as ledger:
        assert {event.member for event in ledger.events() if event.kind == "dropped"} == {0, 1, 2, 3}
        assert not [event for event in ledger.events() if event.kind == "reply-refused"]
    labels = {kit.number: np.load(kit.path(kit.data))["y"] for kit in rehearsal.kits()}
    for given in steps(rehearsal)[-1].contributions:
        assert given.num_examples == sum(labels[given.member] != 3)


def test_a_piggybacked_request_is_accepted_and_the_reply_left_out(make: Make) -> None:
    rehearsal = make(schedule={"every": 1})  # the device's own clock is real, and an ask must be fresh
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=1)
    with contextlib.closing(Record(rehearsal.kits()[2].path("record.db"))) as record:
        record.put("client")
    rehearsal.run(grid, rounds=3)
    with read(rehearsal) as ledger:
        [request] = ledger.requests()
    assert (request.subject, request.status) == (2, "done")
    trained = [members(step) for step in steps(rehearsal) if step.phase == "train"]
    assert trained == [[0, 1, 2, 3], [0, 1, 3], [0, 1, 3]]


def test_a_device_gets_the_reason_of_a_refusal_and_continues_training(make: Make) -> None:
    rehearsal = make(schedule={"every": 1})
    with contextlib.closing(Record(rehearsal.kits()[2].path("record.db"))) as record:
        record.put("sample", rehearsal.digests(2)[:3])
    rehearsal.run(grid_of(rehearsal), rounds=3)
    with contextlib.closing(Record(rehearsal.kits()[2].path("record.db"))) as record:
        assert [(ask.refused, ask.signings) for ask in record.asks()] == [("nothing-contributed", 1)]
    with read(rehearsal) as ledger:
        assert ledger.requests() == []
        assert [event.member for event in ledger.events() if event.kind == "ask-in-reply-refused"] == [2]
    assert [members(step) for step in steps(rehearsal)] == [[0, 1, 3], [0, 1, 2, 3], [0, 1, 2, 3]]


def test_a_request_without_a_valid_signature_gets_no_answer(make: Make) -> None:
    rehearsal = make()
    rehearsal.run(grid_of(rehearsal), rounds=1)
    ask = rehearsal.signed(1).ask
    with rehearsal.place(grid_of(rehearsal)) as place:
        training = Coordinator(place).training
        training._on_ask(2, ask, b"forged")
        assert training.config()["answers"] == ""


def test_an_older_copy_of_the_record_trains_on_nothing_that_was_forgotten(make: Make, tmp_path: Path) -> None:
    rehearsal = make()
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=1)
    kit = rehearsal.kits()[1]
    before = kit.path("record.db").read_bytes()
    gone = rehearsal.digests(1)[:8]
    request = rehearsal.ask(rehearsal.signed(1, gone))
    rehearsal.run(grid, rounds=2)
    kit.path("record.db").write_bytes(before)
    rehearsal.run(grid, rounds=3)
    assert members(steps(rehearsal)[-1]) == [0, 2, 3]
    with read(rehearsal) as ledger:
        [refused] = [event for event in ledger.events() if event.kind == "reply-refused"]
    assert refused.member == 1
    assert "does not train: its record.db is an older copy that lacks forgotten samples. " in str(refused.facts)
    assert f"fedquit record KIT --retire {request.id} --samples FILE" in str(refused.facts)
    names = tmp_path / "names.txt"
    names.write_text("\n".join(digest.hex() for digest in gone), encoding="utf-8")
    assert retire_again(kit.folder, request.id, names) == 8
    rehearsal.run(grid, rounds=4)
    assert {given.member: given.num_examples for given in steps(rehearsal)[-1].contributions}[1] == 32


def test_an_older_copy_of_the_record_retires_a_forgotten_class_again(make: Make) -> None:
    rehearsal = make()
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=1)
    kit = rehearsal.kits()[1]
    before = kit.path("record.db").read_bytes()
    rehearsal.ask_for_class(3, 7)
    rehearsal.run(grid, rounds=2)
    kit.path("record.db").write_bytes(before)
    rehearsal.run(grid, rounds=3)
    labels = np.load(kit.path(kit.data))["y"]
    counts = {given.member: given.num_examples for given in steps(rehearsal)[-1].contributions}
    assert counts[1] == sum((labels != 3) & (labels != 7))


def test_each_device_is_reminded_of_the_newest_it_dropped_and_of_no_others() -> None:
    def request(number: int, subject: int | None) -> RequestState:
        what, classes = ("class", (number % 7, 8)) if subject is None else ("sample", ())
        id_ = f"{number:064x}"
        return RequestState(id_, subject or 0, "", what, classes, 0, "", "done", 0, 0, "", "", "", "", 0)

    requests = [request(number, 2 if number % 10 == 3 else None) for number in range(70)]
    dropped = tuple((each, {1, 2, 5} if number % 4 else {2, 3}) for number, each in enumerate(requests))
    reminded = Presence(devices=frozenset({1, 2, 3, 4}), dropped=dropped).retired()
    for device in (1, 2, 3):
        own = [each for each, by in dropped if device in by and (each.granularity == "class" or each.subject == device)]
        told = [":".join([each.id, *map(str, each.classes)]) for each in own[-LISTED:]]
        assert reminded[device]["retired"].split(",") == told
    assert reminded.keys() == {1, 2, 3}, "4 dropped nothing, 5 is no device"
