"""No request stops training, ends with a lie, or changes the model for nothing: rehearsed deployments."""

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from flwr.app import Message

from fedquit.client.receipts import Receipt, read_receipt
from fedquit.server.federation import Federation
from fedquit.server.ledger import Event, Request, Step
from fedquit.server.page import ledger_view
from fedquit.server.page.metrics import metrics
from fedquit.strategies.grid.array_record import record_of
from tests.harness.rehearsal import KitGrid, Rehearsal

HOUR, DAY = 3600.0, 86_400.0
CLASS = 3
Change = Callable[[Message, Message], Message | None]
Make = Callable[..., Rehearsal]


class Grid(KitGrid):
    """A grid on which `change` decides what becomes of each reply.

    It keeps (message type, member) of every message, and how long a reply is waited for.
    """

    change: Change = staticmethod(lambda _message, reply: reply)
    sent: list[tuple[str, int]]
    limits: list[float | None]

    def member(self, message: Message) -> int:
        return self._members[message.metadata.dst_node_id]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        for message in list(messages):
            self.sent.append((message.metadata.message_type, self.member(message)))
            self.limits.append(timeout)
            for reply in super().send_and_receive([message], timeout=timeout):
                changed = self.change(message, reply)
                if changed is not None:
                    yield changed


@pytest.fixture
def make(template: Path, tmp_path: Path) -> Make:
    def made(*, holders: Iterable[int] = range(4), **tables: dict[str, Any]) -> Rehearsal:
        """Copy the deployment; only `holders` have samples of CLASS."""
        rehearsal = Rehearsal(shutil.copytree(template, tmp_path / f"copy-{len(list(tmp_path.iterdir()))}"))
        rehearsal.tell(tables)
        for kit in rehearsal.kits():
            if kit.number not in set(holders):
                held = np.load(kit.path(kit.data))
                left = held["y"] != CLASS
                np.savez(kit.path(kit.data), x=held["x"][left], y=held["y"][left])
        return rehearsal

    return made


def grid_of(rehearsal: Rehearsal) -> Grid:
    grid = Grid(rehearsal.kits(), rehearsal.federation.settings().run_config(), "fedquit.client.app:app")
    grid.sent, grid.limits = [], []
    return grid


def steps(rehearsal: Rehearsal, phase: str | None = None) -> list[Step]:
    with rehearsal.ledger() as ledger:
        assert ledger.check_chain() == []
        return ledger.steps(phase=phase)


def events(rehearsal: Rehearsal, kind: str) -> list[Event]:
    with rehearsal.ledger() as ledger:
        return [event for event in ledger.events() if event.kind == kind]


def request_of(rehearsal: Rehearsal, request: Request) -> Request:
    with rehearsal.ledger() as ledger:
        return ledger.request(request.id)


def receipt_of(rehearsal: Rehearsal, request: Request) -> Receipt:
    key: Any = load_pem_public_key((rehearsal.server / "receipts.pub").read_bytes())
    return read_receipt(request_of(rehearsal, request).receipt or b"", key)


def members(step: Step) -> list[int]:
    return [given.member for given in step.contributions]


def of_class(rehearsal: Rehearsal, member: int) -> int:
    kit = rehearsal.kits()[member]
    return int((np.load(kit.path(kit.data))["y"] == CLASS).sum())


def spoilt(message: Message, reply: Message) -> Message:
    if message.metadata.message_type == "train.forget":
        arrays = {name: np.full_like(a.numpy(), 0.5) for name, a in reply.content.array_records["arrays"].items()}
        reply.content["arrays"] = record_of(arrays)
    return reply


@pytest.mark.parametrize("fault", ["a holder lies", "the only holder is away", "one of four holds it", "nobody lies"])
def test_a_class_request_never_stops_training(make: Make, fault: str) -> None:
    few = fault in ("the only holder is away", "one of four holds it")
    rehearsal = make(holders=[0] if few else range(4))
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=2)
    request = rehearsal.ask_for_class(CLASS)
    if fault == "a holder lies":
        grid.change = lambda message, reply: spoilt(message, reply) if grid.member(message) == 1 else reply
    there = [1, 2, 3] if fault == "the only holder is away" else [0, 1, 2, 3]
    grid.away = {0} - set(there)
    rehearsal.run(grid, rounds=3)
    last = steps(rehearsal)[-1]
    assert request_of(rehearsal, request).status in ("done", "unrecovered", "refused", "failed")
    assert last.at - request.asked_at < DAY
    assert members(last) == there
    assert [members(step) for step in steps(rehearsal, "recover")] == [there] * len(steps(rehearsal, "recover"))
    if fault != "a holder lies":
        labels = {kit.number: np.load(kit.path(kit.data))["y"] for kit in rehearsal.kits()}
        assert {c.member: c.num_examples for c in last.contributions} == {
            member: sum(labels[member] != CLASS) for member in there
        }


def test_a_device_that_never_drops_what_it_must_holds_up_nobody_for_long(make: Make) -> None:
    rehearsal = make(schedule={"every": HOUR, "round-timeout": 600})
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=2)
    rehearsal.ask_for_class(CLASS)
    grid.away = {2}
    rehearsal.run(grid, rounds=3)

    def silent(message: Message, reply: Message) -> Message | None:
        if grid.member(message) != 2 or message.metadata.message_type != "train.forget":
            return reply
        rehearsal.clock.pause(600)
        return None

    grid.away, grid.change = set(), silent
    grid.sent.clear()
    rehearsal.run(grid, rounds=30)
    assert [members(step) for step in steps(rehearsal, "train")[3:]] == [[0, 1, 3]] * 27
    waited = 600 * grid.sent.count(("train.forget", 2))
    took = steps(rehearsal)[-1].at - steps(rehearsal, "train")[2].at
    assert 0 < waited < 0.15 * took
    grid.change = Grid.change
    rehearsal.clock.pause(DAY)
    rehearsal.run(grid, rounds=32)
    assert members(steps(rehearsal)[-1]) == [0, 1, 2, 3]


def test_a_device_with_old_debts_pays_them_while_another_request_is_served(make: Make) -> None:
    rehearsal = make(forgetting={"device-timeout": DAY})
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=2)
    rehearsal.ask_for_class(CLASS)
    grid.away = {2}
    rehearsal.run(grid, rounds=3)
    waits = rehearsal.ask(rehearsal.signed(1))
    grid.away = {1}
    with contextlib.suppress(TimeoutError):
        rehearsal.run(grid, rounds=3, turns=5)
    assert request_of(rehearsal, waits).status == "forgetting"
    assert 2 in {event.member for event in events(rehearsal, "dropped")}


@pytest.mark.parametrize("why", ["rounds are over", "nobody is there", "every round fails"])
def test_a_request_that_does_not_get_back_to_its_goal_says_so(make: Make, why: str) -> None:
    strict: dict[str, Any] = {"recover-rounds": 1, "tolerance": 0, "patience": 9}
    rehearsal = make(forgetting=strict if why == "rounds are over" else {"recover-rounds": 30, "patience": 9})
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=2)
    before = {step.model_after for step in steps(rehearsal)}
    request = rehearsal.ask(rehearsal.signed(1))

    def broken(message: Message, reply: Message) -> Message | None:
        if message.metadata.message_type == "train.forget" and why == "nobody is there":
            grid.away = {0, 2, 3}
        fails = why == "every round fails" and message.metadata.message_type == "train"
        return None if fails else reply

    grid.change = broken
    with contextlib.suppress(TimeoutError):
        rehearsal.run(grid, rounds=3, turns=40)
    told = request_of(rehearsal, request)
    assert told.status == "unrecovered"
    assert told.changed_at - request.asked_at < DAY
    grid.change, grid.away = Grid.change, set()
    rehearsal.run(grid, rounds=4)
    assert members(steps(rehearsal)[-1]) == [0, 2, 3], "what it forgot stays forgotten"
    assert not {path.stem for path in (rehearsal.server / "models").iterdir()} & before, "and purged"
    receipt = receipt_of(rehearsal, request)
    assert receipt.predicate["status"] == "unrecovered"
    assert receipt.predicate["verdict"]["recovered"] is False
    with rehearsal.ledger() as ledger:
        assert ledger.member(1).status == "withdrawn"
        assert 'status="unrecovered"} 1' in metrics(ledger, rehearsal.federation, rehearsal.clock())
        assert ledger_view.overview(ledger, rehearsal.federation, rehearsal.clock())["requests"]["unrecovered"] == 1


def test_samples_of_a_request_that_did_not_recover_never_train_again(make: Make) -> None:
    rehearsal = make(forgetting={"recover-rounds": 1, "tolerance": 0, "patience": 9})
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=2)
    request = rehearsal.ask_for_class(CLASS)
    grid.away = {2}
    rehearsal.run(grid, rounds=3)
    assert request_of(rehearsal, request).status == "unrecovered"
    grid.away = set()
    rehearsal.run(grid, rounds=5)
    labels = {kit.number: np.load(kit.path(kit.data))["y"] for kit in rehearsal.kits()}
    last = steps(rehearsal)[-1]
    assert {c.member: c.num_examples for c in last.contributions} == {m: sum(labels[m] != CLASS) for m in range(4)}


@pytest.mark.parametrize("way", ["method", "fallback"])
@pytest.mark.parametrize("what", ["class", "late device", "samples of a late device"])
def test_what_is_retrained_never_descends_from_the_data(make: Make, way: str, what: str) -> None:
    told: dict[str, Any] = {"method": "retrain"} if way == "method" else {"fallback": ["retrain"]}
    rehearsal = make(holders=[1, 2], forgetting={**told, "recover-rounds": 1})
    grid = grid_of(rehearsal)
    grid.away = {2}
    rehearsal.run(grid, rounds=2)
    grid.away = set()
    rehearsal.run(grid, rounds=4)
    trained = steps(rehearsal)
    gone = rehearsal.digests(2)[:4] if what.startswith("samples") else ()
    request = rehearsal.ask_for_class(CLASS) if what == "class" else rehearsal.ask(rehearsal.signed(2, gone))
    grid.away = {1, 2} if way == "fallback" else set()
    rehearsal.run(grid, rounds=4)
    told_of = request_of(rehearsal, request)
    assert (told_of.method, told_of.status) == ("retrain", "done")
    [forget] = steps(rehearsal, "forget")
    assert forget.model_after == trained[0 if what == "class" else 2].model_before
    receipt = receipt_of(rehearsal, request)
    contained = {each["model"] for each in receipt.predicate["descendants"]}
    assert contained >= {step.model_after for step in trained[2:]}
    assert not contained & set(receipt.predicate["models"].values()) - {told_of.model_before}


def test_a_restart_from_a_model_that_met_the_data_is_not_adopted(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    rehearsal = make(forgetting={"fallback": ["retrain"]})
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=2)
    before = steps(rehearsal)
    request = rehearsal.ask(rehearsal.signed(1))
    grid.away = {1}
    monkeypatch.setattr("fedquit.unlearning.methods.references.Retrain.serve", lambda _self, session: session.current)
    rehearsal.run(grid, rounds=2)
    told = request_of(rehearsal, request)
    assert (told.status, steps(rehearsal)) == ("failed", before)
    assert "descends from the data" in told.reason


def test_a_receipt_names_the_epochs_and_batches_taken_from_training(make: Make) -> None:
    forgetting = {"method": "orthogonal", "fallback": [], "guard": "adopt", "recover-rounds": 1}
    rehearsal = make(forgetting={**forgetting, "method-settings": {"rounds": 1, "epochs": 2}})
    trained = rehearsal.federation.settings()
    assert trained.local_epochs != 2, "or what was given is what training has"
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=1)
    request = rehearsal.ask(rehearsal.signed(1))
    rehearsal.run(grid, rounds=4)
    method = receipt_of(rehearsal, request).predicate["method"]
    assert method["name"] == "orthogonal"
    assert method["settings"] == {"rounds": 1, "epochs": 2, "batch_size": trained.batch_size}


def test_no_exchange_is_without_a_limit_also_right_after_a_restart(make: Make) -> None:
    rehearsal = make(schedule={"round-timeout": 600})
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=1)
    rehearsal.ask(rehearsal.signed(1))
    for _ in range(4):
        with contextlib.suppress(TimeoutError):
            rehearsal.run(grid, rounds=2, turns=1)  # each turn a coordinator of its own
    assert None not in grid.limits


def test_asking_for_samples_that_do_not_exist_changes_nothing(make: Make) -> None:
    rehearsal = make()
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=2)
    before = steps(rehearsal)
    for number in range(3):
        nonce = bytes([number]) * 16
        request = rehearsal.ask(rehearsal.signed(1, [bytes([number] * 32)], nonce=nonce))
        rehearsal.run(grid, rounds=2)
        told = request_of(rehearsal, request)
        assert told.status == "refused"
        assert "nothing to forget" in told.reason
    assert steps(rehearsal) == before
    assert events(rehearsal, "fallback") == []
    rehearsal.run(grid, rounds=3)
    assert members(steps(rehearsal)[-1]) == [0, 1, 2, 3]
    assert {c.num_examples for c in steps(rehearsal)[-1].contributions} == {40}


def test_asking_for_a_class_that_nobody_holds_changes_nothing(make: Make) -> None:
    rehearsal = make(holders=[])
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=2)
    before = steps(rehearsal)
    request = rehearsal.ask_for_class(CLASS)
    rehearsal.run(grid, rounds=2)
    told = request_of(rehearsal, request)
    assert (told.status, steps(rehearsal)) == ("refused", before)
    assert "nothing to forget" in told.reason


def test_samples_that_trained_and_were_deleted_are_forgotten_too(make: Make) -> None:
    rehearsal = make(forgetting={"fallback": ["retrain"]})
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=2)
    request = rehearsal.ask(rehearsal.signed(1, rehearsal.digests(1)[:8]))
    kit = rehearsal.kits()[1]
    held = np.load(kit.path(kit.data))
    np.savez(kit.path(kit.data), x=held["x"][8:], y=held["y"][8:])
    rehearsal.run(grid, rounds=3)
    told = request_of(rehearsal, request)
    assert (told.status, told.method) == ("done", "retrain")


def test_a_fallback_that_destroys_is_never_run_for_a_device_that_answers(make: Make) -> None:
    rehearsal = make(forgetting={"fallback": ["negate"]})
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=2)
    before = steps(rehearsal)
    grid.change = spoilt
    request = rehearsal.ask(rehearsal.signed(1))
    rehearsal.run(grid, rounds=2)
    told = request_of(rehearsal, request)
    assert (told.status, told.method) == ("refused", "fedquit")
    assert "guard" in told.reason
    assert steps(rehearsal) == before


@pytest.mark.parametrize("left", [("retrain",), ()])
def test_a_fallback_that_destroys_is_undone_unless_it_recovers(make: Make, left: tuple[str, ...]) -> None:
    told: dict[str, Any] = {"fallback": ["negate", *left], "recover-rounds": 1, "tolerance": 0.1}
    rehearsal = make(forgetting=told, trusted={"data": "trusted.npz"}, training={"lr": 0.02})
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=8)
    trained = steps(rehearsal)
    request = rehearsal.ask(rehearsal.signed(1))
    grid.away = {1}
    rehearsal.run(grid, rounds=9)
    [undone] = steps(rehearsal, "undo")
    assert undone.model_after == trained[-1].model_after
    [event] = events(rehearsal, "undone")
    assert event.facts["failed"] == "negate"
    now = request_of(rehearsal, request)
    if left:
        assert now.method == "retrain"
        receipt = receipt_of(rehearsal, request)
        negated = {step.model_after for step in steps(rehearsal) if trained[-1].number < step.number < undone.number}
        there = {path.stem for path in (rehearsal.server / "models").iterdir()}
        assert negated <= {each["model"] for each in receipt.predicate["descendants"]}
        assert not there & (negated | {step.model_after for step in trained})
    else:
        assert now.status == "failed"
        assert "negate" in now.reason
        after = next(step for step in steps(rehearsal, "train") if step.number > undone.number)
        assert after.model_before == trained[-1].model_after


def test_by_default_a_device_that_is_gone_is_really_forgotten_and_needs_nobody() -> None:
    from fedquit.server.coordinator.requests.policy import chain

    for granularity in ("client", "sample", "class"):
        (_, first), *others = chain(Federation(name="clinics"), granularity)
        assert first.name == "fedquit"
        assert others
        for _, method in others:
            assert not method.traits.needs_device
            assert not method.traits.destroys
            assert method.name != "continue"
