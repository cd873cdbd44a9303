"""A server that listens on one address alone starts, and every look at it is at that address."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fedquit.client.device.join import free_port
from fedquit.processes.supervisor import listens, reached_at
from fedquit.server.provision.doctor_command import doctor
from fedquit.server.provision.federation_plan import read_plan
from fedquit.server.provision.provision import provision
from tests.harness.processes import BIN

ONE = "127.0.0.2"
TOLD = """
name = "clinics"
[server]
bind = "{bind}"
fleet-port = {ports[0]}
superlink-port = {ports[1]}
forget-port = {ports[2]}
page-port = {ports[3]}
[training]
model = "mlp"
classes = 10
input-shape = "1x8x8"
[[device]]
name = "north"
[[device]]
name = "south"
"""
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 is an address of its own on Linux")


def made(folder: Path) -> tuple[Path, list[int]]:
    ports = [free_port() for _ in range(4)]
    (folder / "federation.toml").write_text(TOLD.format(bind=ONE, ports=ports))
    provision(read_plan(folder / "federation.toml"), folder / "out")
    return folder / "out" / "server", ports


@contextmanager
def serving(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FLWR_")}
    environment["PATH"] = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "fedquit", "serve", str(folder), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(90)


@pytest.mark.timeout(400)
@pytest.mark.skipif(shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") is None, reason="needs nginx")
def test_a_server_bound_to_one_address_starts_and_the_doctor_sees_it(tmp_path: Path) -> None:
    folder, ports = made(tmp_path)
    with serving(folder) as process:
        assert process.stdout is not None
        events = list[dict[str, Any]]()
        for line in process.stdout:
            events.append(json.loads(line))
            if events[-1].get("event") == "ready":
                break
        assert events[-1].get("event") == "ready", events
        assert [event["part"] for event in events if event.get("event") == "started"].count("proxy") == 1
        assert [listens(port, ONE) for port in (ports[0], ports[2])] == [True, True]
        assert [listens(port) for port in (ports[0], ports[2])] == [False, False]
        found = {one["name"]: one for one in json.loads(CliRunner().invoke(doctor, [str(folder), "--json"]).stdout)}
        assert found["ports"]["text"] == "all in use: the server is running"


def test_the_doctor_finds_a_port_that_is_taken_at_the_address_that_will_listen(tmp_path: Path) -> None:
    folder, ports = made(tmp_path)

    def ports_finding() -> dict[str, Any]:
        found = json.loads(CliRunner().invoke(doctor, [str(folder), "--json"]).stdout)
        return next(one for one in found if one["name"] == "ports")

    with socket.create_server(("127.0.0.1", ports[0])):  # another address: nobody's business
        assert ports_finding()["state"] == "ok"
    with socket.create_server((ONE, ports[0])):
        assert ports_finding()["text"].startswith(f"in use already: fleet-port {ports[0]}")


@pytest.mark.parametrize(
    ("bind", "at"), [("0.0.0.0", "127.0.0.1"), ("::", "::1"), (ONE, ONE), ("fed.example.org", "fed.example.org")]
)
def test_what_listens_on_every_address_is_reached_on_loopback(bind: str, at: str) -> None:
    assert reached_at(bind) == at
