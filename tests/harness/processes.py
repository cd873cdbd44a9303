"""Flower's and fedquit's programs as processes of this machine, for tests: where they are, started and ended."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

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
def joined(kit: Path) -> Iterator[tuple["subprocess.Popen[str]", list[Mapping[str, Any]]]]:
    """Run `fedquit join KIT --json`, and yield it with the events as they come."""
    events: list[Mapping[str, Any]] = []
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "fedquit", "join", str(kit), "--json"]
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
