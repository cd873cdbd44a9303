"""A deployment of real processes on this machine, on loopback: `fedquit serve`, `fedquit join` for each device.

Every process carries a mark in its environment that its children inherit, so those of one deployment are found whoever
their parent is by now, and ended to the last one, by their ids. Linux only: looks into /proc.
"""

import contextlib
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from fedquit.client.device.join import free_port
from fedquit.client.device.record import Record, opened
from fedquit.client.kit import Kit
from fedquit.errors import FedquitError
from fedquit.processes.supervisor import listens
from fedquit.server.federation import Federation
from fedquit.server.ledger import Ledger
from fedquit.server.serve.serve import START_WITHIN
from tests.harness.rehearsal import Rehearsal, rehearse

MARK = "FEDQUIT_DEPLOYMENT"
HOME = b"FLWR_HOME="
PORTS = ("fleet-port", "forget-port", "page-port")
POLL = 0.05
"""Seconds between two looks."""
MOST = 10
"""A wait takes no more than so many times what it may take without progress."""
PARTS = {
    "SuperLink": "flower-superlink",
    "SuperNode": "flower-supernode",
    "SuperExec": "flower-superexec",
    "ServerApp": "flwr-serverapp",
    "forget service": "fedquit.server.service",
    "page": "fedquit.server.page",
    "ClientApp": "flwr-clientapp",
    "ready process": "warm_clientapp",
    "serve": "fedquit serve",
    "join": "fedquit join",
    "forget": "fedquit forget",
}
"""What is in the command line of each kind of process; that of a device's SuperNode is its SuperExec's too."""
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Process:
    """A process of a deployment: its id, its command line, and what Flower was told is its home."""

    pid: int
    command: str
    home: str = ""

    @property
    def part(self) -> str:
        """Of which kind of `PARTS` it is; "": of none."""
        return next((part for part, text in PARTS.items() if text in self.command), "")

    def signal(self, number: int) -> None:
        """Send it a signal, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


class Deployment:
    """The deployment in `folder`, as `made` makes it; nothing runs yet.

    Args:
        folder: with `server` and `kits`.

    Attributes:
        python: whose fedquit and Flower the commands are; of this process, unless a test sets another.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.server = folder.resolve(), folder.resolve() / "server"
        self.logs = self.folder / "logs"
        self.python = Path(sys.executable)
        self.federation = Federation.read(self.server)
        self.kits = {kit.name: kit for kit in Rehearsal(self.folder).kits()}
        self._children: list[subprocess.Popen[bytes]] = []

    def copy(self, folder: Path) -> "Deployment":
        """Return a copy in a new folder, on free ports of its own; nothing may run here."""
        shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns("logs", "*.log"))
        server = self.federation.server
        old = {server.fleet_port, server.superlink_port, server.forget_port, server.page_port}
        new = {str(port): str(free_port()) for port in old}
        for path in [folder / "server" / "server.toml", *folder.glob("kits/*/device.toml")]:
            text = path.read_text(encoding="utf-8")
            path.write_text(re.sub(rf"\b({'|'.join(new)})\b", lambda found: new[found[0]], text), encoding="utf-8")
        return Deployment(folder)

    def run(
        self, name: str, *arguments: object, environment: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[bytes]":
        """Start a command of fedquit's, with more of an environment; what it says goes to logs/NAME.log."""
        self.logs.mkdir(exist_ok=True)
        whole = {key: value for key, value in os.environ.items() if not key.startswith("FLWR_")}
        whole |= {MARK: str(self.folder), "OMP_NUM_THREADS": "1", **(environment or {})}
        whole["PATH"] = f"{self.python.parent}{os.pathsep}{os.environ.get('PATH', '')}"
        command = [str(self.python), "-m", "fedquit", *map(str, arguments)]
        with (self.logs / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=whole)
        self._children.append(child)
        return child

    def serve(self) -> None:
        """Start the server, without a proxy, and wait until devices can reach it."""
        self.run("serve", "serve", self.server, "--no-proxy")
        self.until(lambda: listens(self.federation.server.fleet_port), "SuperLink", START_WITHIN, 0.2)

    def join(self, name: str) -> None:
        """Start a device."""
        self.run(name, "join", self.kits[name].folder)

    def processes(self, *parts: str, home: Path | None = None) -> list[Process]:
        """Return the processes that live: of these kinds (all if none is named), whose Flower is at `home` (or any)."""
        mark, found = f"{MARK}={self.folder}".encode(), []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):  # it is gone, or not ours
                environment = (entry / "environ").read_bytes().split(b"\0")
                if mark not in environment:
                    continue
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                at = next((each[len(HOME) :].decode() for each in environment if each.startswith(HOME)), "")
                process = Process(int(entry.name), command, at)
                if (home is None or at == str(home)) and (not parts or process.part in parts):
                    found.append(process)
        return found

    def stop(self) -> None:
        """End every process, those that started others first, and wait until none is left."""
        for child in self._children:
            if child.poll() is None:
                child.kill()
        end = time.monotonic() + 30
        while left := self.processes():
            for process in left:
                process.signal(signal.SIGKILL)
            for child in self._children:
                child.poll()
            if time.monotonic() > end:
                raise FedquitError(f"processes do not end: {left}")
            time.sleep(0.05)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run the server and every device for as long as the context lasts."""
        since = datetime.now(UTC)
        try:
            self.serve()
            for name in self.kits:
                self.join(name)
            self.until(lambda: self.processes("ServerApp"), "ServerApp", START_WITHIN, 0.2)
            self.until(lambda: self.online(since) == len(self.kits), "devices", START_WITHIN, 0.5)
            yield
        finally:
            self.stop()

    def online(self, since: datetime) -> int:
        """Return how many devices have connected to the SuperLink since then; `flwr supernode list` takes seconds."""
        database = sqlite3.connect(f"file:{self.server / 'flower' / 'state.db'}?mode=ro", uri=True)
        with contextlib.closing(database):
            found = database.execute("SELECT last_activated_at FROM node WHERE status = 'online'").fetchall()
        return sum(bool(at) and datetime.fromisoformat(at) > since for (at,) in found)

    @contextlib.contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """Open the ledger for looking."""
        ledger = Ledger.open(self.federation.ledger_url(self.server), write=False)
        try:
            yield ledger
        finally:
            ledger.close()

    def record(self, name: str) -> contextlib.AbstractContextManager[Record]:
        """Open a device's record for looking."""
        kit: Kit = self.kits[name]
        return opened(kit.path(kit.record))

    def until(self, found: Callable[[], Found], what: str, seconds: float, every: float = POLL) -> Found:
        """Wait until there is something, for as long as the deployment moves, however busy the machine is.

        Args:
            found: looks for it.
            what: it is, for the error.
            seconds: without anything new in the logs or the ledger after which waiting ends; `MOST` times that in all.
            every: seconds between two looks.

        Raises:
            FedquitError: it does not come, and nothing moves any more.
        """
        seen, begun, look = self._progress(), time.monotonic(), 0.0
        end = begun + seconds
        while not (value := found()):
            now = time.monotonic()
            if now >= look:
                look, at = now + 1.0, self._progress()
                seen, end = at, end if at == seen else min(now + seconds, begun + MOST * seconds)
            if now > end:
                raise FedquitError(f"no {what}, and nothing moved for {seconds:.0f} s (or it took {MOST} times that)")
            time.sleep(every)
        return value

    def _progress(self) -> tuple[tuple[str, int, int], ...]:
        """Return what changes as long as there is progress: the commands' logs, the devices', and the ledger."""
        patterns = ("logs/*", "kits/*/logs/*", "server/ledger.db*", "server/models/*")
        paths = [path for pattern in patterns for path in self.folder.glob(pattern)]
        found = list[tuple[str, int, int]]()
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                found.append((path.name, path.stat().st_size, path.stat().st_mtime_ns))
        return tuple(found)


def made(
    folder: Path,
    tables: Mapping[str, dict[str, Any]],
    *,
    devices: int = 3,
    samples: int = 240,
    proxy: bool = False,
) -> Deployment:
    """Make a deployment of that many devices on free ports, who share `samples` of the digits.

    Args:
        folder: where to.
        tables: of federation.toml, beside the ports.
        devices: how many.
        samples: how many in all.
        proxy: whether devices reach the SuperLink through nginx, and not itself.
    """
    ports = {name: free_port() for name in PORTS}
    server = {**ports, "superlink-port": free_port() if proxy else ports["fleet-port"]}
    return Deployment(rehearse(folder, {**tables, "server": server}, devices=devices, samples=samples).folder)
