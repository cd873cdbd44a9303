"""The coordinator's run: there is one whenever the SuperLink is up, and every device is let in once."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from fedquit.errors import FedquitError
from fedquit.server.federation import Federation, Server
from fedquit.server.ledger import Ledger, Member
from fedquit.server.serve.given_up_runs import serverapps
from fedquit.server.serve.last_look import LOOKED
from fedquit.server.serve.serve import Run, line_of
from fedquit.server.serve.superlink import Flower
from tests.harness.waiting import STILL, until


class FakeFlower:
    """A SuperLink of which tests say which runs it has."""

    def __init__(self, port: int) -> None:
        self.federation = Federation(name="clinics", server=Server(superlink_port=port))
        self.states: dict[int, str] = {}
        self.registered: list[str] = []
        self.stopped: list[int] = []
        self.down = False
        self.refuses: set[str] = set()
        self.home = Path("/nowhere")

    def runs(self) -> dict[int, str]:
        if self.down:
            raise FedquitError("flwr list failed: nobody answers")
        return self.states

    def start_run(self) -> int:
        number = len(self.states) + 1
        self.states[number] = "running"
        return number

    def stop_run(self, run: int) -> None:
        self.stopped.append(run)
        self.states[run] = "finished:stopped"

    def register(self, members: list[Member]) -> list[str]:
        self.registered += [member.name for member in members if member.name not in self.refuses]
        return [f"Flower does not register '{m.name}': its key" for m in members if m.name in self.refuses]


class World:
    def __init__(self, folder: Path, port: int) -> None:
        self.flower, self.told, self.now = FakeFlower(port), list[dict[str, Any]](), 1000.0
        self.ledger = Ledger.open(f"sqlite:///{folder}/ledger.db")
        self.ledger.enrol("north", b"n")
        self.ledger.enrol("ada", b"a", "operator")
        self.run = Run(cast(Flower, self.flower), folder, lambda event: self.told.append(dict(event)))

    def later(self, seconds: float) -> list[str]:
        """Tend the run once, so many seconds later, and return what was told."""
        before = len(self.told)
        self.now += seconds
        self.run.tend()
        return [event["event"] for event in self.told[before:]]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with socket.create_server(("127.0.0.1", 0)) as superlink:
        made = World(tmp_path, superlink.getsockname()[1])
        monkeypatch.setattr(time, "monotonic", lambda: made.now)
        yield made
        made.ledger.close()


def test_a_run_is_started_where_there_is_none_and_again_when_it_has_failed(world: World, tmp_path: Path) -> None:
    assert world.later(0) == ["run"]
    (tmp_path / LOOKED).touch()  # it came to work
    assert world.later(100) == []
    world.flower.states[1] = "finished:failed"
    assert world.later(100) == ["run"]


def test_a_run_that_never_came_to_work_is_followed_by_the_next_after_a_pause(world: World, tmp_path: Path) -> None:
    starts = list[float]()
    for _ in range(400):  # a machine so busy that Flower gives up each ServerApp before it has started
        if world.later(5) == ["run"]:
            starts.append(world.now)
        world.flower.states = dict.fromkeys(world.flower.states, "finished:failed")
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert gaps[:2] == sorted(gaps[:2])
    assert gaps[3:] == [90.0] * len(gaps[3:]), "a minute more than between two looks"
    (tmp_path / LOOKED).touch()  # the last one came to work
    assert world.later(100) == ["run"], "and so its successor is started at once"


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_a_serverapp_that_flower_has_given_up_is_ended_before_the_next_one(world: World, tmp_path: Path) -> None:
    world.flower.home = tmp_path / "flower"
    command = [sys.executable, "-c", "import time; time.sleep(600)", "flwr-serverapp"]
    left = subprocess.Popen(command, env={**os.environ, "FLWR_HOME": str(world.flower.home)})
    stranger = subprocess.Popen(command, env={**os.environ, "FLWR_HOME": str(tmp_path / "another")})
    try:
        until(lambda: serverapps(world.flower.home) == [left.pid])
        world.flower.states = {1: "running"}
        world.later(100)
        assert left.poll() is None, "its run lives"
        world.flower.states = {1: "finished:failed"}
        assert world.later(100) == ["run"]
        assert left.wait(STILL) == -signal.SIGKILL
        assert stranger.poll() is None
    finally:
        for process in (left, stranger):
            process.kill()
            process.wait()


def test_devices_are_let_in_once_also_those_that_come_later(world: World) -> None:
    world.later(0)
    world.ledger.enrol("south", b"s")
    world.later(100)
    world.later(100)
    assert world.flower.registered == ["north", "south"]


def test_a_device_that_flower_refuses_is_logged_once_and_the_others_train(world: World) -> None:
    world.ledger.enrol("south", b"s")
    world.flower.refuses = {"north"}
    assert world.later(0) == ["refused", "run"]
    assert "north" in line_of(world.told[0])
    assert world.later(100) == []
    assert world.flower.registered == ["south"]


def test_trouble_with_flower_is_reported_once_and_retried(world: World) -> None:
    world.flower.down = True
    assert world.later(0) == ["trouble"]
    assert world.later(1) == []
    world.flower.down = False
    assert world.later(100) == ["run"]


def test_nothing_is_asked_of_a_superlink_that_is_down(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    world.flower.federation = Federation(name="clinics", server=Server(superlink_port=port))
    assert world.later(100) == []
    assert world.flower.states == {}


def test_a_server_that_starts_ends_the_run_of_the_one_before(world: World) -> None:
    world.flower.states = {7: "running", 8: "finished:completed"}
    world.run.begin()
    assert world.flower.stopped == [7]
