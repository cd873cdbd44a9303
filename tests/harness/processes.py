"""Flower's and fedquit's programs as processes of this machine, for tests: where they are, started and ended."""

import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from fedquit.client.device.join import free_port
from tests.harness.waiting import STILL

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


@contextmanager
def own_flower(home: Path) -> Iterator[dict[str, str]]:
    """Yield an environment with a Flower of its own, and end what it started, by pid."""
    home.mkdir()
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(free_port()),
    }
    try:
        yield environment
    finally:
        for pid in started_with(home):
            os.kill(pid, signal.SIGTERM)


def started_with(home: Path) -> list[int]:
    """Return the processes whose environment names this Flower's home."""
    listed = subprocess.run(["ps", "axeww", "-o", "pid=,command="], capture_output=True, text=True, check=True).stdout
    lines = [line for line in listed.splitlines() if f"FLWR_HOME={home}" in line and "flower-super" in line]
    return [int(line.split()[0]) for line in lines]


@contextmanager
def joined(kit: Path, *arguments: str) -> Iterator[tuple["subprocess.Popen[str]", list[Mapping[str, Any]]]]:
    """Run `fedquit join KIT --json`, with more arguments, and yield it with the events as they come."""
    events: list[Mapping[str, Any]] = []
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "fedquit", "join", str(kit), "--json", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as device:

        def read() -> None:
            events.extend(json.loads(line) for line in device.stdout or ())

        threading.Thread(target=read, daemon=True).start()
        try:
            yield device, events
        finally:
            with suppress(ProcessLookupError):
                device.send_signal(signal.SIGTERM)
            device.wait(STILL)


def program(name: str) -> str:
    """Return where a program is, of the distribution or of this environment; without it, skip the test."""
    found = shutil.which(name, path=f"{BIN}:{os.environ['PATH']}:/usr/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed{'; on Debian: apt-get install nginx-light' if name == 'nginx' else ''}")
    return found


class Withheld:
    """A stranger's request, all of which is sent except the last byte of its body."""

    def __init__(self, port: int, size: int, authority: Path) -> None:
        context = ssl.create_default_context(cafile=str(authority))
        self.socket = context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="localhost")
        kind = f"Content-Type: application/x-protobuf\r\nContent-Length: {size}"
        head = f"POST /v1/fleet/push-object HTTP/1.1\r\nHost: localhost\r\n{kind}\r\n\r\n"
        self.socket.settimeout(STILL)
        with contextlib.suppress(OSError):  # refused while it is being sent
            self.socket.sendall(head.encode() + bytes(size - 1))

    def status(self) -> int:
        """Wait for an answer to what was sent so far, and return its status."""
        return int(self.socket.recv(100).split()[1])

    def complete(self) -> int:
        """Send the last byte too, and return the status of the answer."""
        self.socket.sendall(b"0")
        return self.status()
