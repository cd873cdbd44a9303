"""A device in a real federation: SuperLink with TLS and node keys, `fedquit join`, an app that asks it everything."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import tomli_w

from fedquit.client.data.build_data_and_model import dataset_of
from fedquit.client.device.approved_code import APP_FILES, COMPONENTS, bundle_digest, code_digest
from fedquit.client.device.join import free_port
from fedquit.client.device.local_data.sample_names import digests_of
from fedquit.client.device.record import opened
from fedquit.client.kit import Kit
from fedquit.processes.supervisor import Part, Supervisor
from fedquit.server.federation import Federation
from fedquit.server.ledger import Ledger
from fedquit.server.serve.serve import START_WITHIN
from fedquit.server.serve.superlink import Flower
from fedquit.settings import Settings
from tests.harness.processes import joined
from tests.harness.waiting import MOST, STILL, files, until

pytestmark = pytest.mark.timeout(MOST)
SERVERS = "deployed/server_app.py"

SERVER = """
import json
from pathlib import Path
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp
from fedquit.settings import Settings
from fedquit.client.data.build_data_and_model import initial_model

__all__ = ["app"]
app = ServerApp()

@app.main()
def main(grid, context):
    settings = Settings.from_run_config(context.run_config)
    while not (nodes := list(grid.get_node_ids())):
        pass
    arrays, said = ArrayRecord(initial_model(settings, 0).state_dict()), []

    def ask(kind, arrays, **config):
        told = ConfigRecord({"seed": 5, "lr": 0.1, "phase": "train", **config})
        message = Message(RecordDict({"arrays": arrays, "config": told}), nodes[0], kind)
        (reply,) = grid.send_and_receive([message], timeout=1200)
        if reply.has_error():
            said.append({"kind": kind, "error": reply.error.reason})
            return arrays
        said.append({"kind": kind, **dict(reply.content["metrics"])})
        if "ask" in reply.content:
            import hashlib
            said[-1]["request"] = hashlib.sha256(reply.content["ask"]["ask"]).hexdigest()
        return reply.content["arrays"] if "arrays" in reply.content else arrays

    ask("query", arrays)
    arrays = ask("train", arrays, **{"server-round": 1})
    arrays = ask("train.forget", arrays, request=said[-1]["request"], granularity="sample", samples="forget")
    arrays = ask("train", arrays, **{"server-round": 2})
    (Path(context.run_config["folder"]) / "said.json").write_text(json.dumps(said))
"""


QUERY = SERVER.partition('    arrays = ask("train"')[0]
QUERY += '    (Path(context.run_config["folder"]) / "said.json").write_text(json.dumps(said))\n'


@contextmanager
def server(folder: Path, federation: Federation, app: str = SERVER) -> Iterator[Flower]:
    """Run a SuperLink whose app is the one above."""
    flower = Flower(folder, federation)
    flower.prepare()
    (flower.home / "app" / "deployed" / "server_app.py").write_text(app)
    environment = flower.environment()
    (folder / "logs").mkdir(exist_ok=True)
    parts = [
        Part("superlink", flower.superlink(), environment, federation.server.superlink_port),
        Part("superexec", flower.superexec(), environment),
    ]
    supervisor = Supervisor(parts, folder / "logs")
    supervisor.start(START_WITHIN)
    try:
        ledger = Ledger.open(federation.ledger_url(folder))
        flower.register([member for member in ledger.members() if member.role == "device"])
        ledger.close()
        yield flower
    finally:
        supervisor.stop()


@contextmanager
def command_lines(folder: Path) -> Iterator[set[str]]:
    """Look at the list of processes many times a second; yield the command lines of those that belong to a folder."""
    found, over = set[str](), threading.Event()

    def look() -> None:
        while not over.wait(0.02):
            for entry in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if "flwr-" in line and str(folder).encode() in (entry / "environ").read_bytes():
                        found.add(line)

    threading.Thread(target=look, daemon=True).start()
    try:
        yield found
    finally:
        over.set()


@pytest.fixture
def federation(tmp_path: Path) -> Path:
    """Provision a federation of one device, and return its folder."""
    data = dataset_of(Settings()).train
    np.savez(tmp_path / "own.npz", x=data.inputs.numpy()[:120], y=data.labels.numpy()[:120])
    port = free_port()
    told = {
        "name": "clinics",
        "server": {"fleet-port": port, "superlink-port": port, "forget-port": free_port(), "page-port": free_port()},
        "training": {"model": "mlp", "classes": 10, "input-shape": "1x8x8"},
        "device": [{"name": "north", "data": str(tmp_path / "own.npz")}],
    }
    (tmp_path / "federation.toml").write_text(tomli_w.dumps(told))
    command = [sys.executable, "-m", "fedquit", "provision", str(tmp_path / "federation.toml")]
    subprocess.run(command, check=True, capture_output=True)
    return tmp_path / "clinics"


def test_a_device_joins_trains_asks_forgets_and_comes_back_when_it_is_killed(federation: Path) -> None:
    folder, kit = federation / "server", Kit.read(federation / "kits" / "north")
    gone = digests_of(kit, ["3", "7"])
    digest = code_digest({name: text.encode() for name, text in {**APP_FILES, SERVERS: SERVER}.items()}, {**COMPONENTS})
    with (kit.folder / "device.toml").open("a") as file:
        file.write(f'approve = ["{digest}"]\n')
    with opened(kit.path(kit.record)) as record:
        record.put("sample", gone)
    with (
        server(folder, Federation.read(folder)) as flower,
        joined(kit.folder) as (device, events),
        command_lines(federation) as lines,
    ):
        until(lambda: any(event["event"] == "started" for event in events), "SuperNode")
        flower.start_run()
        until((folder / "said.json").exists, "answers", moving=lambda: files(federation))
        (first,) = (event["pid"] for event in events if event["event"] == "started")
        os.kill(first, signal.SIGKILL)
        until(lambda: sum(event["event"] == "started" for event in events) == 2, "second SuperNode")
        device.send_signal(signal.SIGTERM)
        assert device.wait(STILL) == 0
    assert {event["state"] for event in events if event["event"] == "check"} == {"ok"}
    programs = {name for name in ("flwr-serverapp", "flwr-clientapp") if any(name in line for line in lines)}
    assert sys.platform != "linux" or programs == {"flwr-serverapp", "flwr-clientapp"}
    assert not [line for line in lines if "--token" in line], "a token is nobody's but the task's"
    said = json.loads((folder / "said.json").read_text())
    assert [(each["kind"], each["num-examples"]) for each in said] == [
        ("query", 120), ("train", 120), ("train.forget", 2), ("train", 118),
    ]  # fmt: skip
    with opened(kit.path(kit.record)) as record:
        assert set(record.retired()) == set(gone)
        assert [(done.number, done.num_examples) for done in record.rounds()] == [(1, 120), (2, 118)]
        assert [len(record.rounds(digest)) for digest in gone] == [1, 1]


def test_a_device_runs_nothing_of_code_that_its_owner_did_not_approve(federation: Path) -> None:
    folder, kit = federation / "server", Kit.read(federation / "kits" / "north")
    with server(folder, Federation.read(folder), QUERY) as flower, joined(kit.folder) as (_, events):
        until(lambda: any(event["event"] == "started" for event in events), "SuperNode")
        flower.start_run()
        until((folder / "said.json").exists, "answers", moving=lambda: files(federation))
    (said,) = json.loads((folder / "said.json").read_text())
    (kept,) = (kit.folder / "refused").iterdir()
    assert f'add approve = ["{bundle_digest(kept.read_bytes())}"]' in said["error"]
    assert "nothing of it was run" in said["error"]
    assert not list((kit.folder / "flower").rglob("server_app.py"))  # not even unpacked
