"""What one member can do to all the others, lying or by bad luck: rehearsed deployments."""

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message, MetricRecord

from fedquit.errors import RefusalError
from fedquit.server.ledger import Event, Request, Step
from fedquit.strategies.grid.array_record import record_of
from tests.harness.rehearsal import KitGrid, Rehearsal, rehearse

LIAR = 1
Change = Callable[[Message, Message], Message | None]
Make = Callable[..., Rehearsal]


class Grid(KitGrid):
    """A grid on which `change` decides what becomes of the liar's replies."""

    change: Change = staticmethod(lambda _message, reply: reply)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        for message in list(messages):
            for reply in super().send_and_receive([message], timeout=timeout):
                lies = self._members[message.metadata.dst_node_id] == LIAR and not reply.has_error()
                changed = self.change(message, reply) if lies else reply
                if changed is not None:
                    yield changed


@pytest.fixture(scope="module")
def made(template: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    return {2: rehearse(tmp_path_factory.mktemp("one") / "two", devices=2).folder, 4: template}


@pytest.fixture
def make(made: dict[int, Path], tmp_path: Path) -> Make:
    def copied(devices: int = 4, **tables: dict[str, Any]) -> Rehearsal:
        rehearsal = Rehearsal(shutil.copytree(made[devices], tmp_path / f"copy-{len(list(tmp_path.iterdir()))}"))
        rehearsal.tell(tables)
        return rehearsal

    return copied


def grid_of(rehearsal: Rehearsal, change: Change | None = None) -> Grid:
    grid = Grid(rehearsal.kits(), rehearsal.federation.settings().run_config(), "fedquit.client.app:app")
    if change:
        grid.change = change
    return grid


def steps(rehearsal: Rehearsal) -> list[Step]:
    with rehearsal.ledger() as ledger:
        assert ledger.check_chain() == []
        return ledger.steps()


def events(rehearsal: Rehearsal, kind: str) -> list[Event]:
    with rehearsal.ledger() as ledger:
        return [event for event in ledger.events() if event.kind == kind]


def request_of(rehearsal: Rehearsal, request: Request) -> Request:
    with rehearsal.ledger() as ledger:
        return ledger.request(request.id)


def with_metrics(reply: Message, **said: float) -> Message:
    """Return a reply that says these metrics, `_` in their names for `-`, and its others."""
    metrics = {**reply.content.metric_records["metrics"], **{name.replace("_", "-"): x for name, x in said.items()}}
    reply.content["metrics"] = MetricRecord(metrics)
    return reply


def test_figures_that_a_device_invents_stop_no_request(make: Make) -> None:
    def talks(message: Message, reply: Message) -> Message:
        names = {f"forget_{'x' * 50}_{number}": 1.0 for number in range(2000)}
        return with_metrics(reply, **names) if message.metadata.message_type == "train.forget" else reply

    rehearsal = make()
    grid = grid_of(rehearsal, talks)
    rehearsal.run(grid, rounds=2)
    request = rehearsal.ask(rehearsal.signed(LIAR, rehearsal.digests(LIAR)[:5]))
    rehearsal.run(grid, rounds=3)
    assert request_of(rehearsal, request).status in ("done", "unrecovered")


@pytest.mark.parametrize("still", [0.0, 1e-6])
def test_one_of_two_devices_that_stands_still_does_not_hold_up_the_other(make: Make, still: float) -> None:
    def hardly_moves(message: Message, reply: Message) -> Message:
        if message.metadata.message_type != "train":
            return reply
        sent, honest = (each.content.array_records["arrays"] for each in (message, reply))
        moved = {name: a.numpy() + still * (honest[name].numpy() - a.numpy()) for name, a in sent.items()}
        reply.content["arrays"] = record_of(moved)
        return reply

    rehearsal, honest = make(2), make(2)
    rehearsal.run(grid_of(rehearsal), rounds=2)
    rehearsal.run(grid_of(rehearsal, hardly_moves), rounds=10)
    rehearsal.run(grid_of(rehearsal), rounds=14)
    honest.run(grid_of(honest), rounds=14)
    made, usual = ([step.measures["usual_step"] for step in steps(each)] for each in (rehearsal, honest))
    assert made[9] > 0.5 * min(usual)
    assert made[-1] > 0.5 * min(usual)


def test_a_class_that_there_is_not_never_stops_training(make: Make) -> None:
    rehearsal = make()
    rehearsal.run(grid_of(rehearsal), rounds=2)
    with pytest.raises(RefusalError, match="no class 57"):
        rehearsal.ask_for_class(57)
    rehearsal.run(grid_of(rehearsal), rounds=3)


def test_a_device_with_most_samples_can_have_any_number_forgotten(make: Make) -> None:
    rehearsal = make()
    for kit in rehearsal.kits()[1:]:
        held = np.load(kit.path(kit.data))
        np.savez(kit.path(kit.data), x=held["x"][:2], y=held["y"][:2])
    rehearsal.run(grid_of(rehearsal), rounds=2)
    assert [given.num_examples for given in steps(rehearsal)[-1].contributions] == [20, 2, 2, 2]
    request = rehearsal.ask(rehearsal.signed(0, rehearsal.digests(0)[:30]))
    rehearsal.run(grid_of(rehearsal), rounds=3)
    assert request_of(rehearsal, request).status in ("done", "unrecovered")
