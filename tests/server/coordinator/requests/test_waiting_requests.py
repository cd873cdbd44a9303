"""A request that waits for its device holds up nobody, and its device is charged with no time but its own."""

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from flwr.app import Error, Message

from fedquit.client.device.record import Record
from fedquit.client.receipts import read_receipt
from fedquit.server.coordinator import Coordinator
from fedquit.server.ledger import Request, Step
from tests.harness.rehearsal import IDLE, KitGrid, Rehearsal

HOUR, DAY = 3600.0, 86_400.0
TIMEOUT = 6 * HOUR
Make = Callable[..., Rehearsal]
Change = Callable[[Message, Message], Message | None]


class Grid(KitGrid):
    """A grid on which `change` decides what becomes of each reply; it keeps how long forget replies are waited for."""

    change: Change = staticmethod(lambda _message, reply: reply)
    limits: list[float | None]

    def member(self, message: Message) -> int:
        return self._members[message.metadata.dst_node_id]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        for message in list(messages):
            if message.metadata.message_type == "train.forget":
                self.limits.append(timeout)
            for reply in super().send_and_receive([message], timeout=timeout):
                changed = self.change(message, reply)
                if changed is not None:
                    yield changed


@pytest.fixture
def make(template: Path, tmp_path: Path) -> Make:
    def copied(**tables: dict[str, Any]) -> Rehearsal:
        rehearsal = Rehearsal(shutil.copytree(template, tmp_path / "out"))
        forgetting = {"device-timeout": TIMEOUT, **tables.pop("forgetting", {})}
        rehearsal.tell({**tables, "forgetting": forgetting})
        return rehearsal

    return copied


def grid_of(rehearsal: Rehearsal) -> Grid:
    grid = Grid(rehearsal.kits(), rehearsal.federation.settings().run_config(), "fedquit.client.app:app")
    grid.limits = []
    return grid


def work(rehearsal: Rehearsal, grid: Grid, hours: float, *, restarts: bool = False) -> None:
    """Have a coordinator, or with `restarts` a new one for each turn, work for so many hours."""
    end = rehearsal.clock.now + hours * HOUR
    while rehearsal.clock.now < end:
        with rehearsal.place(grid) as place:
            coordinator = Coordinator(place)
            turns(coordinator, rehearsal, rehearsal.clock.now if restarts else end)


def turns(coordinator: Coordinator, rehearsal: Rehearsal, end: float) -> None:
    """Have a coordinator work until then, for one turn at least."""
    while True:
        if not coordinator.turn():
            rehearsal.clock.pause(IDLE)
        if rehearsal.clock.now >= end:
            return


def steps(rehearsal: Rehearsal, phase: str | None = None) -> list[Step]:
    with rehearsal.ledger() as ledger:
        assert ledger.check_chain() == []
        return ledger.steps(phase=phase)


def members(step: Step) -> list[int]:
    return [given.member for given in step.contributions]


def now_of(rehearsal: Rehearsal, request: Request) -> Request:
    with rehearsal.ledger() as ledger:
        return ledger.request(request.id)


def statuses(rehearsal: Rehearsal) -> list[str]:
    with rehearsal.ledger() as ledger:
        return [request.status for request in ledger.requests()]


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("what", ["all", "samples"])
def test_a_request_that_waits_for_its_device_stops_no_round(make: Make, what: str, restarts: bool) -> None:
    rehearsal = make()
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=2)
    gone = rehearsal.digests(1)[:8] if what == "samples" else ()
    request = rehearsal.ask(rehearsal.signed(1, gone))
    grid.away = {1}
    work(rehearsal, grid, 5, restarts=restarts)
    waited = steps(rehearsal)
    assert now_of(rehearsal, request).status == "forgetting"
    assert len(waited) >= 6, "it trained on, each hour"
    assert [members(step) for step in waited[2:]] == [[0, 2, 3]] * len(waited[2:])
    grid.away = set()
    rehearsal.run(grid, rounds=len(waited) + 1)
    told = now_of(rehearsal, request)
    [forget] = steps(rehearsal, "forget")
    assert (told.status, told.method) == ("done", "fedquit")
    assert forget.number == len(waited) + 1, "it is served before the next round"
    assert told.model_before == forget.model_before == waited[-1].model_after
    key: Any = load_pem_public_key((rehearsal.server / "receipts.pub").read_bytes())
    receipt = read_receipt(told.receipt or b"", key)
    assert {each["model"] for each in receipt.predicate["descendants"]} == {step.model_after for step in waited}
    last = {given.member: given.num_examples for given in steps(rehearsal)[-1].contributions}
    assert last == ({0: 40, 1: 32, 2: 40, 3: 40} if gone else {0: 40, 2: 40, 3: 40})
    if gone:
        with contextlib.closing(Record(rehearsal.kits()[1].path("record.db"))) as record:
            assert set(record.retired()) == set(gone)


def test_a_class_whose_holders_are_away_stops_no_round(make: Make) -> None:
    rehearsal = make()
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=2)
    request = rehearsal.ask_for_class(3)
    nobody = "device has no samples: nothing of that class is there"

    def empty(message: Message, reply: Message) -> Message:
        told = message.content.config_records
        asked = "config" in told and told["config"].get("samples") == "forget"
        return Message(Error(2, nobody), reply_to=message) if asked and grid.member(message) != 1 else reply

    grid.change, grid.away = empty, {1}
    work(rehearsal, grid, 4)
    assert now_of(rehearsal, request).status == "forgetting"
    assert len(steps(rehearsal, "train")) >= 5
    grid.away = set()
    work(rehearsal, grid, 3)
    assert now_of(rehearsal, request).status == "done"
    assert members(steps(rehearsal, "forget")[0]) == [1]


@pytest.mark.parametrize("device", ["off", "silent"])
def test_requests_of_one_member_wait_together(make: Make, device: str) -> None:
    rehearsal = make(forgetting={"fallback": []})
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=2)
    for number in range(12):
        signed = rehearsal.signed(1, [bytes([number]) * 32], nonce=bytes([number]) * 16)
        begun = rehearsal.ask(signed).asked_at

    def silent(message: Message, reply: Message) -> Message | None:
        if message.metadata.message_type != "train.forget":
            return reply
        rehearsal.clock.pause(grid.limits[-1] or DAY)
        return None

    grid.change, grid.away = silent, {1} if device == "off" else set()
    work(rehearsal, grid, 8)
    assert statuses(rehearsal) == ["failed"] * 12
    with rehearsal.ledger() as ledger:
        assert {TIMEOUT <= request.changed_at - begun < TIMEOUT + HOUR for request in ledger.requests()} == {True}
    assert len(grid.limits) == (device == "silent"), "who does not answer is not waited for again and again"
    trained = len(steps(rehearsal, "train")) - 2
    assert trained >= (7 if device == "off" else 1)


def test_a_silent_device_with_one_ask_after_the_other_stops_rounds_once(make: Make) -> None:
    rehearsal = make(forgetting={"fallback": [], "device-timeout": 2 * HOUR})
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=2)

    def silent(message: Message, reply: Message) -> Message | None:
        if message.metadata.message_type != "train.forget":
            return reply
        rehearsal.clock.pause(grid.limits[-1] or DAY)
        return None

    grid.change = silent
    with rehearsal.place(grid) as place:
        coordinator = Coordinator(place)
        for number in range(5):
            rehearsal.ask(rehearsal.signed(1, [bytes([number]) * 32], nonce=bytes([number]) * 16))
            turns(coordinator, rehearsal, rehearsal.clock.now + 3 * HOUR)
    assert statuses(rehearsal) == ["failed"] * 5
    assert sum(limit or DAY for limit in grid.limits) <= 2 * HOUR
    assert len(steps(rehearsal, "train")) >= 2 + 15 - 3


def test_a_device_that_crashes_once_in_its_work_is_asked_again_soon(make: Make) -> None:
    rehearsal = make(forgetting={"fallback": []})
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=2)
    request = rehearsal.ask(rehearsal.signed(1))

    def crashes(message: Message, reply: Message) -> Message:
        if message.metadata.message_type != "train.forget" or len(grid.limits) > 1:
            return reply
        rehearsal.clock.pause(HOUR)
        return Message(Error(5, "Node Unavailable"), reply_to=message)

    grid.change = crashes
    rehearsal.run(grid, rounds=3)
    told = now_of(rehearsal, request)
    assert (told.status, told.method, len(grid.limits)) == ("done", "fedquit", 2)
    assert told.changed_at - request.asked_at < 2 * HOUR


@pytest.mark.parametrize("what", ["all", "samples"])
def test_another_members_request_is_served_while_one_waits(make: Make, what: str) -> None:
    rehearsal = make()
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=2)
    waits = rehearsal.ask(rehearsal.signed(1, rehearsal.digests(1)[:8] if what == "samples" else ()))
    grid.away = {1}
    work(rehearsal, grid, 0.2)
    other = rehearsal.ask(rehearsal.signed(2))
    work(rehearsal, grid, 0.5)
    assert now_of(rehearsal, other).status == "done"
    assert now_of(rehearsal, waits).status == "forgetting"
    grid.away = set()
    rehearsal.run(grid, rounds=4)
    assert [now_of(rehearsal, request).method for request in (waits, other)] == ["fedquit", "fedquit"]
    assert statuses(rehearsal) == ["done", "done"]
    for step in steps(rehearsal, "recover"):
        if step.request == other.id:
            assert 1 not in members(step)


def test_samples_of_a_request_that_waits_train_in_nobodys_recovery(make: Make) -> None:
    rehearsal = make(forgetting={"recover-rounds": 2, "tolerance": 0, "patience": 9})
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=2)
    rehearsal.ask(rehearsal.signed(1, rehearsal.digests(1)[:8]))
    grid.away = {1}
    work(rehearsal, grid, 0.2)
    other = rehearsal.ask(rehearsal.signed(2))

    def back(message: Message, reply: Message) -> Message:
        if message.metadata.message_type == "train.forget" and grid.member(message) == 2:
            grid.away = set()
        return reply

    grid.change = back
    rehearsal.run(grid, rounds=3)
    recovered = [step for step in steps(rehearsal, "recover") if step.request == other.id]
    assert recovered
    assert [members(step) for step in recovered] == [[0, 3]] * len(recovered)
    assert {c.member: c.num_examples for c in steps(rehearsal)[-1].contributions} == {0: 40, 1: 32, 3: 40}


def test_after_the_timeout_the_fallback_runs_without_the_device(make: Make) -> None:
    rehearsal = make()
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=2)
    request = rehearsal.ask(rehearsal.signed(1))
    grid.away = {1}
    rehearsal.run(grid, rounds=3)
    told = now_of(rehearsal, request)
    [forget] = steps(rehearsal, "forget")
    assert (told.status, told.method) == ("done", "retrain")
    assert TIMEOUT <= forget.at - request.asked_at < TIMEOUT + HOUR
    assert forget.number > 6, "six hours were trained meanwhile"


def test_the_servers_outage_is_not_charged_to_the_device(make: Make) -> None:
    rehearsal = make()
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=2)
    request = rehearsal.ask(rehearsal.signed(1))
    grid.away = {1}
    work(rehearsal, grid, 4)
    for _ in range(3):  # its host is off, and comes back
        rehearsal.clock.pause(DAY)
        work(rehearsal, grid, 0.5)
    assert now_of(rehearsal, request).status == "forgetting"
    grid.away = set()
    rehearsal.run(grid, rounds=3)
    assert now_of(rehearsal, request).method == "fedquit"


def test_time_without_the_server_only_delays_the_fallback(make: Make) -> None:
    rehearsal = make()
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=2)
    request = rehearsal.ask(rehearsal.signed(1))
    grid.away = {1}
    work(rehearsal, grid, 4)
    rehearsal.clock.pause(DAY)
    work(rehearsal, grid, 3)
    assert now_of(rehearsal, request).method == "retrain"


def test_a_device_that_comes_at_the_last_moment_is_given_the_time_of_a_round(make: Make) -> None:
    rehearsal = make(schedule={"round-timeout": 600})
    grid = grid_of(rehearsal)
    rehearsal.run(grid, rounds=2)
    request = rehearsal.ask(rehearsal.signed(1))
    grid.away = {1}
    work(rehearsal, grid, (TIMEOUT - 2 * IDLE) / HOUR)
    grid.away = set()
    rehearsal.run(grid, rounds=3)
    assert now_of(rehearsal, request).method == "fedquit"
    assert all(limit is not None and limit >= 600 for limit in grid.limits)
