"""A device whose connection broke comes back by itself: what lies before the server may cut handshakes for a while."""

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedquit.client.data.build_data_and_model import dataset_of
from fedquit.client.device.join import free_port
from fedquit.client.device.last_exchange import seconds_since
from fedquit.processes.process_groups import process_of
from fedquit.processes.supervisor import Part, Supervisor
from fedquit.server.federation import Federation
from fedquit.server.ledger import Ledger
from fedquit.server.provision.federation_plan import read_plan
from fedquit.server.provision.provision import provision
from fedquit.server.serve.serve import START_WITHIN
from fedquit.server.serve.superlink import Flower
from fedquit.settings import Settings
from tests.harness.deployed.forwarder import PASS, STALL, Forwarder
from tests.harness.processes import joined
from tests.harness.waiting import MOST, until

pytestmark = pytest.mark.timeout(MOST)
CUTS = 3
"""Handshakes that are closed one after the other."""
SILENT = 15.0
"""Seconds without an exchange after which these devices connect anew: Flower waits up to 5 s between two."""


@contextmanager
def superlink(folder: Path, port: int) -> Iterator[None]:
    """Run the SuperLink of a server, which knows its devices."""
    federation = Federation.read(folder)
    flower = Flower(folder, federation)
    flower.prepare()
    (folder / "logs").mkdir()
    supervisor = Supervisor([Part("superlink", flower.superlink(), flower.environment(), port)], folder / "logs")
    supervisor.start(START_WITHIN)
    try:
        ledger = Ledger.open(federation.ledger_url(folder))
        flower.register([member for member in ledger.members() if member.role == "device"])
        ledger.close()
        yield
    finally:
        supervisor.stop()


@contextmanager
def connected(root: Path, *arguments: str) -> Iterator[tuple[Forwarder, list[Mapping[str, Any]]]]:
    """Run a SuperLink and a device with a forwarder between them; yield that and the device's events, once it polls."""
    target = free_port()
    forwarder = Forwarder(target)
    (root / "federation.toml").write_text(
        f'name = "clinics"\n[server]\nfleet-port = {forwarder.port}\nsuperlink-port = {target}\n'
        f'[training]\nmodel = "mlp"\nclasses = 10\ninput-shape = "1x8x8"\n'
        f'[[device]]\nname = "north"\ndata = "{root / "own.npz"}"\n'
    )
    data = dataset_of(Settings()).train
    np.savez(root / "own.npz", x=data.inputs.numpy()[:120], y=data.labels.numpy()[:120])
    provision(read_plan(root / "federation.toml"), root / "clinics")
    with ExitStack() as stack:
        stack.callback(forwarder.refuse)
        stack.enter_context(superlink(root / "clinics" / "server", target))
        _, events = stack.enter_context(joined(root / "clinics" / "kits" / "north", *arguments))
        until(lambda: "SuperNode ID" in log(root), "connection")
        yield forwarder, events


def polls(forwarder: Forwarder) -> None:
    """Wait until the server has answered a device some more."""
    before = forwarder.passed
    until(lambda: forwarder.passed > before + 2000, "answers of the server to a device that polls")


def test_a_device_comes_back_after_handshakes_were_cut(tmp_path: Path) -> None:
    with connected(tmp_path) as (forwarder, _):
        forwarder.break_off()
        until(lambda: forwarder.cut >= CUTS, "handshakes to cut")
        forwarder.mode = PASS
        until(lambda: log(tmp_path).count("SuperNode ID") >= 2, "second connection")
        polls(forwarder)


def test_a_supernode_that_hangs_while_the_server_is_there_is_replaced(tmp_path: Path) -> None:
    with connected(tmp_path, "--silent", str(SILENT)) as (forwarder, events):
        first = pids(events)[0]
        os.kill(first, signal.SIGSTOP)  # it lives, and exchanges nothing
        until(lambda: "silent" in [event["event"] for event in events], "word of it")
        until(lambda: len(pids(events)) >= 2, "second SuperNode")
        assert process_of(first) is None
        until(lambda: log(tmp_path).count("SuperNode ID") >= 2, "second connection")
        polls(forwarder)


@pytest.mark.parametrize("how", ["refuse", "stall"])
def test_a_device_comes_back_to_a_server_that_was_away_behind_a_forwarder(tmp_path: Path, how: str) -> None:
    with connected(tmp_path, "--silent", str(SILENT)) as (forwarder, events):
        if how == "refuse":
            forwarder.refuse()
        else:
            forwarder.mode = STALL
        until(lambda: silent(tmp_path) > 2 * SILENT, "silence of twice the limit")
        assert "silent" not in [event["event"] for event in events], "nothing is mended while the server is away"
        if how == "refuse":
            forwarder.listen()
        else:
            forwarder.mode = PASS
        polls(forwarder)
        until(lambda: silent(tmp_path) < SILENT, "exchange")


def pids(events: list[Mapping[str, Any]]) -> list[int]:
    return [event["pid"] for event in events if event["event"] == "started"]


def silent(root: Path) -> float:
    return seconds_since(root / "clinics" / "kits" / "north" / "flower" / "last-exchange")


def log(root: Path) -> str:
    path = root / "clinics" / "kits" / "north" / "logs" / "supernode.log"
    return path.read_text() if path.exists() else ""
