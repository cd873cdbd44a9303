"""A deployed federation from round to round: real devices, ledger and coordinator on the in-process engine."""

import contextlib
import copy
import csv
import hashlib
import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from flwr.app import Error, Message

from fedquit.client.device.record import Record
from fedquit.client.receipts import read_receipt
from fedquit.errors import FedquitError
from fedquit.server.coordinator import Coordinator
from fedquit.server.ledger import FORGOTTEN, Ledger, NewRequest, Step
from fedquit.server.page.ledger_view import waits_for
from fedquit.server.service.admission import Rules, decide
from fedquit.strategies.grid.array_record import record_of
from tests.harness.rehearsal import KitGrid, Rehearsal, rehearse

Make = Callable[..., Rehearsal]
Change = Callable[[Message, Message], Message | None]


class Faulty(KitGrid):
    """A grid on which `change` decides what becomes of each reply, and which keeps what was sent to whom.

    Attributes:
        change: from the message and its reply to the reply that arrives; None: none does.
        sent: (message type, member) of every message.
    """

    change: Change = staticmethod(lambda _message, reply: reply)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.sent: list[tuple[str, int]] = []

    def member(self, message: Message) -> int:
        return self._members[message.metadata.dst_node_id]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        for message in list(messages):
            self.sent.append((message.metadata.message_type, self.member(message)))
            for reply in super().send_and_receive([message], timeout=timeout):
                changed = self.change(message, reply)
                if changed is not None:
                    yield changed


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rehearse(tmp_path_factory.mktemp("deployment") / "made").folder


@pytest.fixture
def make(template: Path, tmp_path: Path) -> Make:
    """Copy the deployment, and have its server.toml say what the test wants."""

    def made(**tables: dict[str, Any]) -> Rehearsal:
        rehearsal = Rehearsal(shutil.copytree(template, tmp_path / f"copy-{len(list(tmp_path.iterdir()))}"))
        rehearsal.tell(tables)
        return rehearsal

    return made


def grid_of(rehearsal: Rehearsal, change: Change | None = None) -> Faulty:
    grid = Faulty(rehearsal.kits(), rehearsal.federation.settings().run_config(), "fedquit.client.app:app")
    if change:
        grid.change = change
    return grid


@contextlib.contextmanager
def read(rehearsal: Rehearsal) -> Iterator[Ledger]:
    with rehearsal.ledger() as ledger:
        yield ledger
        assert ledger.check_chain() == []


def kinds(rehearsal: Rehearsal) -> list[str]:
    with read(rehearsal) as ledger:
        return [event.kind for event in ledger.events()]


def steps(rehearsal: Rehearsal) -> list[Step]:
    with read(rehearsal) as ledger:
        return ledger.steps()


def members(step: Step) -> list[int]:
    return [given.member for given in step.contributions]


def spoilt(message: Message, reply: Message, value: float) -> Message:
    """Return the reply with every number of its model set to `value`."""
    arrays = {name: np.full_like(a.numpy(), value) for name, a in reply.content.array_records["arrays"].items()}
    reply.content["arrays"] = record_of(arrays)
    return reply


def test_rounds_begin_as_far_apart_as_the_schedule_says_also_after_a_restart(make: Make) -> None:
    rehearsal = make(schedule={"every": 3600})
    rehearsal.run(grid_of(rehearsal), rounds=2)
    rehearsal.run(grid_of(rehearsal), rounds=3)
    for earlier, later in itertools.pairwise(
        steps(rehearsal)
    ):  # seconds are real, and the made clock stands still in them
        assert 3600 <= later.at - (earlier.at - earlier.seconds) < 4500
    assert [step.round for step in steps(rehearsal)] == [1, 2, 3]


MONTH = 30 * 86400.0


@pytest.mark.parametrize("restart", [False, True])
def test_a_clock_that_jumps_stops_no_round(make: Make, restart: bool) -> None:
    rehearsal = make(schedule={"every": 3600})
    grid = grid_of(rehearsal)
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(rehearsal.place(grid))
        began, coordinator = rehearsal.clock.now, Coordinator(place)
        for rounds, ahead in enumerate([0.0, MONTH, 0.0, -MONTH, 0.0], start=1):
            rehearsal.clock.ahead = ahead
            if restart:
                stack.close()
                now, place = rehearsal.clock.now, stack.enter_context(rehearsal.place(grid))
                rehearsal.clock.now, coordinator = now, Coordinator(place)  # not where the log ends
            for _ in range(200):
                if len(place.ledger.steps(phase="train")) == rounds:
                    break
                if not coordinator.turn():
                    rehearsal.clock.pause(60)
            assert len(place.ledger.steps(phase="train")) == rounds
        least = 0 if restart else 4 * 3600 - 600  # a last round a month ago is reason to train now
        assert least <= rehearsal.clock.now - began <= 5 * 3600
        told = [event.facts["seconds"] for event in place.ledger.events() if event.kind == "clock-set"]
        assert told == ([] if restart else [MONTH, -MONTH, -MONTH, MONTH])


def test_after_the_last_round_of_the_schedule_requests_are_still_answered(make: Make) -> None:
    rehearsal = make(schedule={"rounds": 1})
    with pytest.raises(TimeoutError):
        rehearsal.run(grid_of(rehearsal), rounds=2, turns=50)
    request = rehearsal.ask(rehearsal.signed(0))
    rehearsal.run(grid_of(rehearsal), rounds=1)
    with read(rehearsal) as ledger:
        assert ledger.request(request.id).status == "done"
        assert len(ledger.steps(phase="train")) == 1


def test_training_waits_for_enough_devices_and_the_log_says_so_once(make: Make) -> None:
    rehearsal = make(schedule={"min-clients": 4})
    grid = grid_of(rehearsal)
    grid.away = {2}
    with pytest.raises(TimeoutError):
        rehearsal.run(grid, rounds=1, turns=20)
    assert kinds(rehearsal).count("waiting") == 1
    grid.away = set()
    rehearsal.run(grid, rounds=1)
    assert members(steps(rehearsal)[0]) == [0, 1, 2, 3]


def test_a_leave_needs_no_round_and_what_training_waits_for_is_said(make: Make) -> None:
    rehearsal = make(schedule={"min-clients": 3})
    rehearsal.run(grid_of(rehearsal), rounds=1)
    for member in range(4):
        request = rehearsal.ask(rehearsal.signed(member))
        rehearsal.run(grid_of(rehearsal), rounds=1)
        with read(rehearsal) as ledger:
            assert ledger.request(request.id).status in FORGOTTEN
            told = waits_for(ledger.members(), rehearsal.federation)
        assert told.startswith(["", "waiting for 1 more device:", "waiting for 2 more", "waiting for 3 more"][member])
        assert bool(told) == (member > 0)


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


def test_the_receipt_states_the_models_that_the_ledger_names(make: Make) -> None:
    rehearsal = make()
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=2)
    trained = [step.model_after for step in steps(rehearsal)]
    request = rehearsal.ask(rehearsal.signed(1))
    rehearsal.run(grid, rounds=2)
    with read(rehearsal) as ledger:
        told = ledger.request(request.id)
    key: Any = load_pem_public_key((rehearsal.server / "receipts.pub").read_bytes())
    receipt = read_receipt(told.receipt or b"", key)
    assert receipt.predicate["models"]["before"] == told.model_before == trained[-1]
    assert receipt.predicate["models"]["after"] == told.model_after == steps(rehearsal)[-1].model_after
    assert receipt.predicate["purged"]["models"] == sorted(trained)


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


def test_after_the_timeout_the_next_method_forgets_for_a_device_that_is_gone(make: Make) -> None:
    rehearsal = make(forgetting={"fallback": ["retrain"], "device-timeout": 3600})
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=2)
    request = rehearsal.ask(rehearsal.signed(1))
    grid.away = {1}
    rehearsal.run(grid, rounds=2)
    with read(rehearsal) as ledger:
        told = ledger.request(request.id)
        events = {event.kind: event for event in ledger.events(request=request.id)}
    assert told.status in FORGOTTEN
    assert told.method == "retrain"
    assert "did not connect" in events["fallback"].facts["why"]
    assert events["fallback"].at - events["forgetting"].at >= 3600


def test_without_a_usable_method_the_request_fails_and_the_device_stays_out(make: Make) -> None:
    rehearsal = make(forgetting={"fallback": []})
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=1)
    request = rehearsal.ask(rehearsal.signed(1))
    grid.away = {1}
    rehearsal.run(grid, rounds=1)
    grid.away = set()
    rehearsal.run(grid, rounds=2)
    with read(rehearsal) as ledger:
        told = ledger.request(request.id)
    assert told.status == "failed"
    assert told.reason == "fedquit: the device of member 1 did not connect in time"
    assert members(steps(rehearsal)[-1]) == [0, 2, 3]


@pytest.mark.parametrize(("guard", "fallback", "status"), [("refuse", [], "refused"), ("refuse", ["retrain"], "done")])
def test_a_sabotaged_model_never_becomes_the_global_one(
    make: Make, guard: str, fallback: list[str], status: str
) -> None:
    rehearsal = make(forgetting={"fallback": fallback, "guard": guard})
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=2)

    def sabotage(message: Message, reply: Message) -> Message:
        return spoilt(message, reply, 0.5) if message.metadata.message_type == "train.forget" else reply

    grid.change = sabotage
    request = rehearsal.ask(rehearsal.signed(1))
    rehearsal.run(grid, rounds=2)
    with read(rehearsal) as ledger:
        told = ledger.request(request.id)
        held = [event for event in ledger.events(request=request.id) if event.kind == "quarantined"]
    bad = {event.facts["model"] for event in held if event.facts["verdict"] == "refuse"}
    assert told.status == status
    assert [event.facts["verdict"] for event in held] == ["refuse", *(["adopt"] if fallback else [])]
    assert "furthest weight" in held[0].facts["off"]
    assert not bad & {step.model_after for step in steps(rehearsal)}
    assert not list((rehearsal.server / "quarantine").iterdir())


def test_a_device_that_fails_is_asked_again_and_then_another_method_forgets(make: Make) -> None:
    rehearsal = make()
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=1)
    request = rehearsal.ask(rehearsal.signed(1))
    failures = iter(range(2))

    def fails(message: Message, reply: Message) -> Message:
        failing = message.metadata.message_type == "train.forget" and next(failures, None) is not None
        return Message(Error(2, "battery empty"), reply_to=message) if failing else reply

    grid.change = fails
    rehearsal.run(grid, rounds=1)
    other = rehearsal.ask(rehearsal.signed(2))
    failures = iter(range(3))
    rehearsal.run(grid, rounds=1)
    with read(rehearsal) as ledger:
        assert [ledger.request(each.id).method for each in (request, other)] == ["fedquit", "retrain"]
        assert {each.status for each in ledger.requests()} <= set(FORGOTTEN)


def test_a_missing_model_file_is_reported_and_fails_no_request(make: Make) -> None:
    rehearsal = make()
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=1)
    request = rehearsal.ask(rehearsal.signed(1))
    current = rehearsal.server / "models" / f"{steps(rehearsal)[-1].model_after}.safetensors"
    content = current.read_bytes()
    current.unlink()
    with pytest.raises(FedquitError, match="is missing"):
        rehearsal.run(grid, rounds=1)
    current.write_bytes(content)
    rehearsal.run(grid, rounds=1)
    with read(rehearsal) as ledger:
        assert (ledger.request(request.id).status, ledger.request(request.id).method) == ("done", "fedquit")


def test_a_bug_in_a_method_does_not_keep_a_request_for_ever(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    rehearsal = make()
    rehearsal.run(grid_of(rehearsal), rounds=1)
    request = rehearsal.ask(rehearsal.signed(1))

    def broken(*_args: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("fedquit.unlearning.methods.fedquit.FedQUIT.serve", broken)
    rehearsal.run(grid_of(rehearsal), rounds=1)
    with read(rehearsal) as ledger:
        assert ledger.request(request.id).status in FORGOTTEN
        assert ledger.request(request.id).method == "retrain"


BAD: dict[str, Change] = {
    "holds NaN or infinity": lambda message, reply: spoilt(message, reply, float("nan")),
    "battery empty": lambda message, reply: Message(Error(2, "battery empty"), reply_to=message),
}
GONE: dict[str, Change] = {
    "Node Unavailable": lambda message, reply: Message(Error(5, "Node Unavailable"), reply_to=message),
    "no answer within 600 s": lambda message, reply: None,
}


@pytest.mark.parametrize(("kind", "reason"), [*(("reply-refused", r) for r in BAD), *(("no-reply", r) for r in GONE)])
def test_a_reply_that_is_bad_or_never_came_is_left_out_and_named_as_what_it_is(
    make: Make, kind: str, reason: str
) -> None:
    rehearsal, changes = make(), BAD | GONE
    grid = grid_of(rehearsal)
    grid.change = lambda message, reply: changes[reason](message, reply) if grid.member(message) == 3 else reply
    rehearsal.run(grid, rounds=1)
    [step] = steps(rehearsal)
    assert (members(step), step.refused) == ([0, 1, 2], 1)
    with read(rehearsal) as ledger:
        [event] = [event for event in ledger.events() if event.kind in ("reply-refused", "no-reply")]
    assert (event.kind, event.member) == (kind, 3)
    assert reason in event.facts["reason"]


def test_a_reply_that_comes_twice_counts_once(make: Make) -> None:
    rehearsal = make()

    class Twice(Faulty):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
            for reply in super().send_and_receive(messages, timeout=timeout):
                yield reply
                yield reply

    rehearsal.run(grid_of(rehearsal), rounds=1)
    twice = make()
    grid = Twice(twice.kits(), twice.federation.settings().run_config(), "fedquit.client.app:app")
    twice.run(grid, rounds=1)
    assert steps(twice)[0].model_after == steps(rehearsal)[0].model_after
    with read(twice) as ledger:
        strays = [event for event in ledger.events() if event.kind == "stray-reply"]
    assert sorted((event.member, event.facts["reason"]) for event in strays) == [
        (member, "that message is answered already") for member in range(4)
    ]


class Late(Faulty):
    """A grid on which every exchange begins with the last replies of those before it, each a second time."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.before: list[Message] = []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        yield from self.before[-15:]
        for reply in super().send_and_receive(messages, timeout=timeout):
            self.before.append(copy.deepcopy(reply))
            yield reply


def test_replies_of_an_earlier_round_or_request_change_nothing_and_are_named(make: Make) -> None:
    ended = []
    for kind in (Faulty, Late):
        rehearsal = make(forgetting={"recover-rounds": 1})
        grid = kind(rehearsal.kits(), rehearsal.federation.settings().run_config(), "fedquit.client.app:app")
        rehearsal.run(grid, rounds=2)
        rehearsal.ask(rehearsal.signed(1, rehearsal.digests(1)[:8]))
        rehearsal.run(grid, rounds=2)
        rehearsal.ask(rehearsal.signed(2))
        rehearsal.run(grid, rounds=3)
        ended.append([(step.phase, step.model_after, members(step)) for step in steps(rehearsal)])
    with read(rehearsal) as ledger:
        strays = [event for event in ledger.events() if event.kind == "stray-reply"]
    assert ended[0] == ended[1]
    assert {event.facts["reason"] for event in strays} == {"it answers no message of this round"}
    assert {(event.facts["phase"], event.facts["kind"]) for event in strays} >= {
        ("train", "train"), ("forget", "evaluate"), ("forget", "train.forget"), ("recover", "train")
    }  # fmt: skip
    assert all(event.member is not None and event.facts["answers"] for event in strays)


def test_a_round_without_a_good_reply_is_logged_and_repeated(make: Make) -> None:
    rehearsal = make()
    grid = grid_of(rehearsal)
    failures = iter(range(4))
    grid.change = lambda message, reply: (
        spoilt(message, reply, float("inf")) if next(failures, None) is not None else reply
    )
    rehearsal.run(grid, rounds=1)
    assert kinds(rehearsal).count("round-failed") == 1
    assert members(steps(rehearsal)[0]) == [0, 1, 2, 3]


def test_a_node_with_an_unknown_key_is_named_once_and_gets_nothing(make: Make) -> None:
    rehearsal = make()
    grid = grid_of(rehearsal)
    grid._keys[1000 + 3] = b"no key"
    rehearsal.run(grid, rounds=2)
    assert {member for _, member in grid.sent} == {0, 1, 2}
    assert kinds(rehearsal).count("stranger") == 1


def test_a_request_near_its_deadline_is_served_first_and_logged(make: Make) -> None:
    rehearsal = make(forgetting={"deadline": 1_000_000})
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=1)
    first = rehearsal.ask(rehearsal.signed(0))
    rehearsal.tell({"forgetting": {"deadline": 100}})
    second = rehearsal.ask(rehearsal.signed(1))
    rehearsal.clock.pause(95)
    rehearsal.run(grid, rounds=1)
    with read(rehearsal) as ledger:
        served = [event.request for event in ledger.events() if event.kind == "done"]
        near = [event.request for event in ledger.events() if event.kind == "deadline-near"]
    assert served == [second.id, first.id]
    assert near == [second.id]


def test_with_trusted_data_every_round_is_measured_and_no_device_is_asked_to(make: Make) -> None:
    rehearsal = make(trusted={"data": "trusted.npz"})
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=2)
    assert all(0 < step.measures["accuracy"] < 1 for step in steps(rehearsal))
    assert {kind for kind, _ in grid.sent} == {"train"}


def test_when_the_last_device_leaves_its_request_ends(make: Make) -> None:
    rehearsal = make(schedule={"min-clients": 1})
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=1)
    for member in range(4):
        rehearsal.ask(rehearsal.signed(member))
    rehearsal.run(grid, rounds=1)
    with read(rehearsal) as ledger:
        assert [request.status for request in ledger.requests()][-1] == "unrecovered", "nobody is left to recover with"
        assert {request.status for request in ledger.requests()} <= set(FORGOTTEN)


def test_two_coordinators_do_not_work_in_one_folder(make: Make) -> None:
    rehearsal = make()
    with (
        rehearsal.place(grid_of(rehearsal)),
        pytest.raises(FedquitError, match="another coordinator is at work"),
        rehearsal.place(grid_of(rehearsal)),
    ):
        pass


def test_the_bytes_of_the_steps_are_those_of_the_cost_log(make: Make) -> None:
    rehearsal = make()
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=2)
    rehearsal.ask(rehearsal.signed(1))
    rehearsal.run(grid, rounds=3)
    with (rehearsal.server / "costs.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    up, down = (sum(int(r["payload_bytes"]) for r in rows if r["direction"] == way) for way in ("up", "down"))
    with read(rehearsal) as ledger:
        [done] = [event for event in ledger.events() if event.kind == "done"]
        told = [(step.bytes_down, step.bytes_up) for step in ledger.steps()]
    told.append((done.facts["verify_bytes_down"], done.facts["verify_bytes_up"]))
    assert (down, up) == tuple(map(sum, zip(*told, strict=True)))
    assert {row["phase"] for row in rows} == {"train", "forget", "recover", "evaluate"}


@pytest.mark.parametrize(
    "told", [{"strategy": "fedavgm", "strategy-settings": "server_momentum=0.9"}, {"objective": "fedgkd"}]
)
def test_strategy_and_objective_state_survive_a_restart(make: Make, told: dict[str, Any]) -> None:
    whole, parts, robbed = (make(training=told) for _ in range(3))
    whole.run(grid_of(whole), rounds=3)
    for rounds in (1, 2, 3):
        parts.run(grid_of(parts), rounds=rounds)
        robbed.run(grid_of(robbed), rounds=rounds)
        shutil.rmtree(robbed.server / "kept")
    last = [steps(rehearsal)[-1].model_after for rehearsal in (whole, parts, robbed)]
    assert last[0] == last[1] != last[2]


@pytest.mark.parametrize("method", ["retrain", "federaser"])
def test_the_fallbacks_that_go_back_do_so_without_what_the_device_gave(make: Make, method: str) -> None:
    rehearsal = make(forgetting={"fallback": [method]})
    grid = grid_of(rehearsal)
    grid.away = {1}
    rehearsal.run(grid, rounds=1)
    grid.away = set()
    rehearsal.run(grid, rounds=3)
    [first, *_] = trained = steps(rehearsal)
    request = rehearsal.ask(rehearsal.signed(1))
    grid.away = {1}
    rehearsal.run(grid, rounds=3)
    with read(rehearsal) as ledger:
        assert (ledger.request(request.id).status, ledger.request(request.id).method) == ("done", method)
    forget = steps(rehearsal)[len(trained)]
    assert (forget.phase, 1 in members(forget)) == ("forget", False)
    if method == "retrain":
        assert (forget.model_after, forget.round) == (first.model_after, first.round)
    assert not (rehearsal.server / "history").exists()


def test_models_are_named_by_their_files_and_what_no_step_names_is_removed(make: Make) -> None:
    rehearsal = make()
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=1)
    stray = rehearsal.server / "models" / f"{'0' * 64}.safetensors"
    stray.write_bytes(b"left by a killed attempt")
    with rehearsal.place(grid) as place:
        Coordinator(place)
    files = list((rehearsal.server / "models").iterdir())
    assert stray not in files
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.stem for path in files)


def test_compression_and_its_error_feedback_survive_restarts_of_both_ends(make: Make) -> None:
    coded = {"compress-up": "top-k+int8+zstd", "compress-down": "fp16+zstd", "compress-settings": {"share": 0.2}}
    whole, parts = make(training=coded), make(training=coded)
    plain, robbed = make(), make(training=coded)
    for rehearsal in (whole, plain):
        rehearsal.run(grid_of(rehearsal), rounds=2)
    for rounds in (1, 2):
        parts.run(grid_of(parts), rounds=rounds)
        robbed.run(grid_of(robbed), rounds=rounds)
        for kit in robbed.kits():
            shutil.rmtree(kit.path(kit.record).parent / "memory")
    last = [steps(rehearsal)[-1] for rehearsal in (whole, parts, robbed, plain)]
    assert last[0].model_after == last[1].model_after != last[2].model_after
    assert last[0].bytes_up < 0.4 * last[3].bytes_up
    assert last[0].bytes_down < 0.6 * last[3].bytes_down
    assert 0 < last[0].measures["compression_error_down"] < 0.001 < last[0].measures["compression_error_up"] < 1
    request = whole.ask(whole.signed(1))
    whole.run(grid_of(whole), rounds=3)
    with read(whole) as ledger:
        assert ledger.request(request.id).status == "done"
    kept = {kit.number: list((kit.path(kit.record).parent / "memory").rglob("*-owed")) for kit in whole.kits()}
    assert not kept[1], "the device that left owes nothing"
    assert {path.name.partition("-")[0] for paths in kept.values() for path in paths} == {"1"}, "nor is it of before"
