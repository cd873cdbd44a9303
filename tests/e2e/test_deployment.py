"""A federation as an operator runs it: provision, serve, four devices, a request by a device, a receipt offline.

SuperLink with TLS and node keys behind nginx, each SuperNode a process of its own, Fashion-MNIST. Parts of the server
are killed during the second request; docs/results/kills.md has each part at each step. `make e2e` runs this alone and
shows the wall time and bytes of each request.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedquit.client.data.datasets import load_dataset
from fedquit.client.device.join import free_port
from fedquit.client.models.model_file import arrays_in
from fedquit.errors import FedquitError
from fedquit.server.federation import Federation
from fedquit.server.ledger import ENDS, FORGOTTEN, Ledger
from fedquit.server.message_store import DATABASE
from tests.harness.processes import BIN
from tests.harness.waiting import MOST, STILL, files, until

DEVICES = ("north", "east", "south", "west")
SAMPLES = 300
pytestmark = pytest.mark.timeout(2 * MOST)
TOLD = """
name = "clinics"
[server]
fleet-port = {fleet}
superlink-port = {superlink}
forget-port = {forget}
page-port = {page}
[training]
model = "mlp"
classes = 10
input-shape = "{shape}"
lr = 0.1
[schedule]
every = "1s"
rounds = 3
min-clients = 3
round-timeout = "120s"
[forgetting]
device-timeout = "180s"
tolerance = 0.05
recover-rounds = 3
guard = "adopt"
[trusted]
data = "holdout.npz"
"""
PIECE = 64  # bytes of a model that are looked for in one piece


def fedquit(*arguments: object, exits: int = 0) -> str:
    """Run a command, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "fedquit", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=MOST,
    )
    assert done.returncode == exits, f"{arguments}: {done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def running(log: Path, *arguments: object) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a command until the end of the block, and end it as its user would."""
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    environment = {key: value for key, value in environment.items() if not key.startswith("FLWR_")}
    with log.open("wb") as file:
        command = [sys.executable, "-m", "fedquit", *map(str, arguments)]
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STILL)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def images() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return real images with their classes: Fashion-MNIST, or digits where that is not installed."""
    try:
        data = load_dataset("fashion-mnist").train
    except FedquitError:
        data = load_dataset("digits").train
    return data.inputs.numpy(), data.labels.numpy()


class Deployment:
    """A server and its devices."""

    def __init__(self, root: Path) -> None:
        self.root, self.server = root, root / "clinics/server"
        self.kits = {name: root / "clinics/kits" / name for name in (*DEVICES, "ada")}

    def ledger(self, read: Callable[[Ledger], Any]) -> Any:
        opened = Ledger.open(Federation.read(self.server).ledger_url(self.server), write=False)
        try:
            return read(opened)
        finally:
            opened.close()

    def until(self, found: Callable[[], Any], what: str) -> Any:
        """Wait for something for as long as the server or a device moves."""
        return until(found, what, moving=lambda: files(self.root), every=0.5)

    def steps(self, **about: Any) -> list[Any]:
        found: list[Any] = self.ledger(lambda ledger: ledger.steps(**about))
        return found

    def request(self, request_id: str) -> Any:
        return self.ledger(lambda ledger: ledger.request(request_id))

    def pid(self, part: str) -> int:
        """Return the process that is a part of the server now."""
        started = re.findall(rf"{part}: started \(pid (\d+)\)", (self.root / "serve.log").read_text())
        return int(started[-1])

    def pieces(self) -> set[bytes]:
        """Return pieces of the models that the server has now, as they would lie in a message."""
        found = set[bytes]()
        for path in (self.server / "models").glob("*.safetensors"):
            for array in arrays_in(path.read_bytes(), path).values():
                content = array.tobytes()
                found |= {content[at : at + PIECE] for at in range(0, len(content) - PIECE, PIECE * 50)}
        return {piece for piece in found if any(piece)}

    def in_flowers_database(self, pieces: set[bytes]) -> int:
        """Return how many pieces are readable in the files of Flower's database."""
        database = self.server / DATABASE
        files = [path.read_bytes() for path in database.parent.glob(f"{database.name}*")]
        return sum(any(piece in content for content in files) for piece in pieces)

    def logs(self) -> str:
        """Return the ends of all logs, for whoever must find out what failed."""
        files = [*self.root.glob("*.log"), *(self.server / "logs").glob("*.log")]
        return "\n".join(f"== {file.name}\n{file.read_text(errors='replace')[-1500:]}" for file in files)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    inputs, labels = images()
    root = tmp_path_factory.mktemp("federation")
    ports = {name: free_port() for name in ("fleet", "superlink", "forget", "page")}
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if nginx is None:  # devices then reach the SuperLink itself
        ports["fleet"] = ports["superlink"]
    shape = "x".join(map(str, inputs.shape[1:]))
    members = "".join(f'[[device]]\nname = "{name}"\ndata = "data.npz"\n' for name in DEVICES)
    (root / "federation.toml").write_text(TOLD.format(**ports, shape=shape) + members + '[[operator]]\nname = "ada"\n')
    fedquit("provision", root / "federation.toml")
    found = Deployment(root)
    order = np.random.default_rng(0).permutation(len(labels))
    for place, name in enumerate(DEVICES):
        own = order[place * SAMPLES : (place + 1) * SAMPLES]
        np.savez(found.kits[name] / "data.npz", x=inputs[own], y=labels[own])
    held_out = order[-500:]
    np.savez(found.server / "holdout.npz", x=inputs[held_out], y=labels[held_out])
    with ExitStack() as stack:
        stack.enter_context(running(root / "serve.log", "serve", found.server, *([] if nginx else ["--no-proxy"])))
        for name in DEVICES:
            stack.enter_context(running(root / f"{name}.log", "join", found.kits[name]))
        try:
            found.until(found.steps, "first round")
            yield found
        except BaseException:
            print(found.logs())
            raise


def served(deployment: Deployment, request_id: str) -> Mapping[str, Any]:
    """Wait until what a request is about is forgotten, recovered or not; verify its receipt offline, and return it."""

    def over() -> Any:
        request = deployment.request(request_id)
        return request if request.status in ENDS else None

    request = deployment.until(over, "end of the request")
    assert request.status in FORGOTTEN, f"{request.reason}\n{deployment.logs()}"
    receipt = deployment.root / f"{request_id[:8]}.json"
    fedquit("receipt", deployment.kits["ada"], request_id, "-o", receipt)
    model = deployment.server / "models" / f"{request.model_after}.safetensors"
    said = json.loads(
        fedquit("verify", receipt, "--key", deployment.server / "receipts.pub", "--model", model, "--json")
    )
    took, costs = request.changed_at - request.asked_at, said["costs"]
    print(
        f"{request.granularity}: {took:.0f} s, {costs['rounds']} rounds of recovery, "
        f"{costs['bytes_down']} bytes down, {costs['bytes_up']} up"
    )
    return dict(said)


def test_a_device_leaves_during_training_and_its_receipt_verifies_offline(deployment: Deployment) -> None:
    pieces = deployment.pieces()
    readable = deployment.in_flowers_database(pieces)
    asked = json.loads(fedquit("forget", deployment.kits["south"], "--json"))
    said = served(deployment, asked["id"])
    left = deployment.in_flowers_database(pieces - deployment.pieces())
    print(f"of {len(pieces)} pieces of models, readable in Flower's database: {readable} before, {left} after")
    assert left == 0
    assert said["purged"]["messages"] == {"remaining": 0, "overwritten": True}
    request = deployment.request(asked["id"])
    steps = deployment.steps(request=asked["id"])
    assert [step.phase for step in steps][:2] == ["forget", "recover"]
    assert [c.member for c in steps[0].contributions] == [request.subject]
    assert not any(c.member == request.subject for step in steps[1:] for c in step.contributions)
    assert said["models"]["before"] != said["models"]["unlearned"] != said["models"]["after"]
    assert said["purged"]["models"]
    kept = {path.stem for path in (deployment.server / "models").glob("*.safetensors")}
    assert not kept & set(said["purged"]["models"])
    assert deployment.ledger(lambda ledger: ledger.check_chain()) == []


def test_samples_are_forgotten_once_though_superlink_and_service_are_killed(deployment: Deployment) -> None:
    names = deployment.root / "names.txt"
    names.write_text("".join(f"{row}\n" for row in range(40)))
    asked = json.loads(fedquit("forget", deployment.kits["north"], "--samples", names, "--json"))
    deployment.until(lambda: deployment.request(asked["id"]).status == "forgetting", "forgetting")
    for part in ("superlink", "service"):
        os.kill(deployment.pid(part), signal.SIGKILL)
    said = served(deployment, asked["id"])
    assert [step.phase for step in deployment.steps(request=asked["id"])].count("forget") == 1
    assert deployment.ledger(lambda ledger: ledger.check_chain()) == []
    request = deployment.request(asked["id"])
    after = [step for step in deployment.steps(request=asked["id"]) if step.phase == "recover"]
    counts = {c.num_examples for step in after for c in step.contributions if c.member == request.subject}
    assert said["request"]["samples_count"] == 40
    assert counts == {SAMPLES - 40}
