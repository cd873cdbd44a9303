"""A real SuperLink, as `serve` runs it, without the rest of the server."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedquit.client.device.join import free_port
from fedquit.processes.supervisor import listens
from fedquit.server.federation import Federation
from fedquit.server.provision.federation_plan import read_plan
from fedquit.server.provision.provision import provision
from fedquit.server.serve.superlink import Flower
from tests.harness.processes import BIN

TOLD = 'name = "clinics"\n[server]\nsuperlink-port = {}\nfleet-port = {}\n'
DEVICES = '[[device]]\nname = "north"\n[[device]]\nname = "south"\n'


@pytest.fixture
def flower(tmp_path: Path) -> Iterator[Flower]:
    port = free_port()
    (tmp_path / "federation.toml").write_text(TOLD.format(port, free_port()) + DEVICES)
    provision(read_plan(tmp_path / "federation.toml"), tmp_path / "out")
    folder = tmp_path / "out" / "server"
    flower = Flower(folder, Federation.read(folder))
    flower.prepare()
    command = [str(BIN / "flower-superlink"), *flower.superlink()[1:]]
    with (tmp_path / "superlink.log").open("wb") as log:
        process = subprocess.Popen(command, env=flower.environment(), stdout=log, stderr=log)
        try:
            until = time.monotonic() + 120
            while not listens(port):
                assert time.monotonic() < until, (tmp_path / "superlink.log").read_text()
                time.sleep(0.2)
            yield flower
        finally:
            process.terminate()
            process.wait(60)
