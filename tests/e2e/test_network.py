"""What the account says beside what crossed the wire: a SuperLink, SuperNodes, and a proxy between them that counts."""

import csv
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import pytest

from fedquit.client.device.join import free_port
from fedquit.processes.supervisor import listens
from tests.harness.processes import BIN, ROOT, own_flower
from tests.harness.waiting import MOST, until

CLIENTS = 2
CONFIG = {
    "model": "cnn", "samples": 200, "holdout": 100, "alpha": 10.0, "rounds": 2, "recover": "budget",
    "recover-rounds": 1, "reference": "none",
}  # fmt: skip
DOWN, UP = ("pull-messages", "pull-object"), ("push-messages", "push-object")
FRAME = 250
"""Bytes of a request or response beside what it carries, at most: names of the node, run, message and object."""
QUERIES = CLIENTS * 4096
"""Bytes of the question who is there, and its answers, which are not accounted; at most."""
BESIDE = {
    "register-node", "activate-node", "deactivate-node", "unregister-node", "send-node-heartbeat", "get-run", "get-fab",
    "confirm-message-received",
}  # fmt: skip
PATIENCE = MOST / 3


@pytest.mark.timeout(MOST)
def test_logged_bytes_are_those_sent_and_equal_on_both_engines(tmp_path: Path) -> None:
    deployed, alone = tmp_path / "deployed", tmp_path / "alone"
    simulate(alone)
    proxy = Proxy()
    with flower(tmp_path / "flower", proxy) as environment:
        run(deployed, environment)
        proxy.check()
    assert payload(deployed) == payload(alone), "what is logical does not depend on the engine"
    for direction, paths in (("down", DOWN), ("up", UP)):
        wire = sum(int(row["wire_bytes"]) for row in rows(deployed) if row["direction"] == direction)
        crossed = sum(proxy.bodies[path, direction] for path in paths)
        calls = sum(proxy.carrying[path, direction] for path in paths)
        print(f"{direction}: accounted {wire}, crossed {crossed} in {calls} calls, by {proxy.told()}")
        assert abs(crossed - wire) < 0.03 * wire, proxy.told()
        assert -18 * len(rows(deployed)) <= crossed - wire <= FRAME * calls + QUERIES, proxy.told()
    assert {path for path, _ in proxy.bodies} <= {*DOWN, *UP, *BESIDE}, "nothing else may carry anything"


def simulate(out: Path) -> None:
    flags = [part for key, value in {**CONFIG, "clients": CLIENTS}.items() for part in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "fedquit", "simulate", *flags, "--workers", "1", "--out", str(out), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr


def run(out: Path, environment: dict[str, str]) -> None:
    config = " ".join(
        f'{key}="{value}"' if isinstance(value, str) else f"{key}={value}" for key, value in CONFIG.items()
    )
    command = [str(BIN / "flwr"), "run", str(ROOT), "counted", "--run-config", f'{config} out="{out}"', "--stream"]
    done = subprocess.run(
        command, cwd=environment["FLWR_HOME"], env=environment, capture_output=True, text=True, timeout=PATIENCE,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"recovered model: sha256", done.stdout + done.stderr), done.stdout + done.stderr


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "costs.csv").open() as file:
        return list(csv.DictReader(file))


def payload(out: Path) -> list[tuple[str, ...]]:
    return sorted(
        tuple(row[key] for key in ("phase", "round", "node", "direction", "payload_bytes")) for row in rows(out)
    )


@dataclass
class Proxy:
    """Passes HTTP on, and counts the bytes of heads and bodies by the last part of the path and by direction."""

    target: int = 0
    heads: Counter[tuple[str, str]] = field(default_factory=Counter)
    bodies: Counter[tuple[str, str]] = field(default_factory=Counter)
    carrying: Counter[tuple[str, str]] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listening.getsockname()[1])
        self.lock = threading.Lock()

    def serve(self) -> None:
        """Pass connections on until the socket is closed."""
        with suppress(OSError):
            while True:
                connection, _ = self.listening.accept()
                threading.Thread(target=self.pass_on, args=(connection,), daemon=True).start()

    def pass_on(self, client: socket.socket) -> None:
        """Pass the requests of one connection on, one after the other, and their responses back."""
        with (
            suppress(ConnectionError, TimeoutError),
            client,
            socket.create_connection(("127.0.0.1", self.target)) as server,
        ):
            asking, answering = client.makefile("rb"), server.makefile("rb")
            while True:
                head, body = self.read(asking)
                if not head:
                    return
                path = head.split(b" ", 2)[1].decode().rpartition("/")[2]
                self.count(path, "up", head, body)
                server.sendall(head + body)
                head, body = self.read(answering)
                self.count(path, "down", head, body)
                client.sendall(head + body)
                if not head:
                    return

    def read(self, stream: BinaryIO) -> tuple[bytes, bytes]:
        """Read one request or response."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = stream.readline()
            if not line:
                return b"", b""
            head += line
        if re.search(rb"(?i)\r\n(transfer-encoding|content-encoding|upgrade):", head):
            self.broken.append(head.decode())
        found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        return head, stream.read(int(found[1])) if found else b""

    def count(self, path: str, direction: str, head: bytes, body: bytes) -> None:
        with self.lock:
            self.heads[path, direction] += len(head)
            self.bodies[path, direction] += len(body)
            self.carrying[path, direction] += bool(body)

    def check(self) -> None:
        assert not self.broken, f"this proxy cannot count {self.broken[0]}"

    def told(self) -> dict[str, tuple[int, int, int]]:
        """Return calls with a body, bytes of heads, and of bodies."""
        keys = sorted(self.bodies)
        return {
            f"{path} {way}": (self.carrying[path, way], self.heads[path, way], self.bodies[path, way])
            for path, way in keys
        }


@contextmanager
def flower(home: Path, proxy: Proxy) -> Iterator[dict[str, str]]:
    """Yield an environment with a SuperLink and SuperNodes that reach it through the proxy; all end with it."""
    proxy.target = free_port()
    threading.Thread(target=proxy.serve, daemon=True).start()
    superlink = ["flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", str(proxy.target)]
    with own_flower(home) as own, ExitStack() as ending:
        ending.callback(proxy.listening.close)
        environment = {**own, "OMP_NUM_THREADS": "1"}
        connection = f'[superlink.counted]\naddress = "127.0.0.1:{proxy.target}"\ninsecure = true\n'
        (home / "config.toml").write_text(f'[superlink]\ndefault = "counted"\n{connection}')
        ending.enter_context(started([*superlink, "--disable-runtime-dependency-installation"], environment))
        wait_for(proxy.target)
        for node in range(CLIENTS):
            ending.enter_context(started(supernode(node, proxy.port), environment))
        yield environment


def supernode(node: int, port: int) -> list[str]:
    return [
        *("flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}", "--port", str(free_port())),
        *("--node-config", f"partition-id={node} num-partitions={CLIENTS}"),
    ]


@contextmanager
def started(command: list[str], environment: dict[str, str]) -> Iterator[None]:
    """Run a program with a process group of its own, and end that group."""
    log = Path(environment["FLWR_HOME"]) / f"{command[0]}-{time.monotonic_ns()}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [str(BIN / command[0]), *command[1:]], cwd=log.parent, env=environment, stdout=file, stderr=file,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield
    finally:
        end(process)


def end(process: "subprocess.Popen[bytes]") -> None:
    for signal_ in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal_)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=60)
            break
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def wait_for(port: int) -> None:
    until(lambda: listens(port), f"listener on port {port}", every=0.2)
