"""A device whose key is revoked is let in by Flower no more: a real SuperLink, registered and unregistered nodes."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedquit.client.device.join import free_port
from fedquit.server.federation import Federation
from fedquit.server.ledger import Ledger
from fedquit.server.ledger.audit_log.seal import read_seal
from fedquit.server.provision.federation_plan import read_plan
from fedquit.server.provision.provision import provision
from fedquit.server.serve.serve import Run
from fedquit.server.serve.superlink import Flower
from fedquit.supervisor import listens
from tests.harness.processes import BIN

TOLD = 'name = "clinics"\n[server]\nsuperlink-port = {}\n[[device]]\nname = "north"\n[[device]]\nname = "south"\n'


@pytest.fixture
def flower(tmp_path: Path) -> Iterator[Flower]:
    port = free_port()
    (tmp_path / "federation.toml").write_text(TOLD.format(port))
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


@pytest.mark.skipif(sys.platform != "linux", reason="SuperLinks are tried on Linux")
def test_flower_lets_a_revoked_device_in_no_more(flower: Flower, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger.open(flower.federation.ledger_url(flower.folder), seal=read_seal(flower.folder / "receipts.key"))
    told = list[Any]()
    monkeypatch.setattr(Flower, "runs", lambda _self: {1: "running"})
    monkeypatch.setattr("fedquit.server.serve.serve.LOOK_EVERY", 0.0)
    run = Run(flower, flower.folder, told.append)
    run.tend()
    assert len(nodes(flower)) == 2
    ledger.revoke(1)
    run.tend()
    left = nodes(flower)
    assert len(left) == 1, told
    Run(flower, flower.folder, told.append).tend()  # a server that starts anew lets it in no more either
    assert nodes(flower) == left
    assert told == []
    ledger.close()


def nodes(flower: Flower) -> set[str]:
    found = flower._json("supernode", "list", "fedquit")["nodes"]
    return {node["node-id"] for node in found if node["status"] != "unregistered"}
