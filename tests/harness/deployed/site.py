"""A deployment that faults can hit anywhere: disks and clocks of its own, and a forwarder before each port of devices.

It has what real ones have around them: an init system that starts `fedquit serve` and `fedquit join` again when they
end, as the documents advise, and owners who repeat a command that could not reach the server. Linux, as root: each side
that its disk can fill has a tmpfs of its own.
"""

import contextlib
import json
import os
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedquit.errors import FedquitError
from fedquit.processes import process_groups
from tests.harness.deployed.fault_plan import DEVICES, Target
from tests.harness.deployed.forwarder import Forwarder
from tests.harness.deployment import Deployment, Process, made

TABLES: dict[str, dict[str, Any]] = {
    "schedule": {"every": "10s", "min-clients": 2, "round-timeout": "90s"},
    "forgetting": {"guard": "adopt", "recover-rounds": 1, "device-timeout": "10m", "deadline": "90d"},
    "asking": {"open-per-key": 1000, "daily-per-key": 1000},
    "trusted": {"data": "trusted.npz"},
}
SAMPLES = 900
"""Of the digits, shared by the devices."""
DISK = "96m"
"""Size of the disk of a side."""
PAUSE = 2.0
"""Seconds until the init system starts again what ended."""
SHIM = Path(__file__).with_name("shifted_clock.c")
SUPEREXEC = "device's SuperExec"
STALE = 0.1
"""Seconds for which a look at the machine's processes serves."""
HERE = {"SuperLink", "SuperExec", "ServerApp"}
"""Parts of the server that belong to its Flower."""


class Disk:
    """A file system of its own below a folder, with what is in the folder now."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._filler = folder, folder / ".filler"
        before = folder.rename(folder.with_name(f"{folder.name}.before"))
        folder.mkdir()
        _mount("mount", "-t", "tmpfs", "-o", f"size={DISK},mode=755", "none", str(folder))
        shutil.copytree(before, folder, dirs_exist_ok=True)
        shutil.rmtree(before)

    def fill(self) -> None:
        """Leave no byte free."""
        with contextlib.suppress(OSError), self._filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def free(self) -> None:
        """Give back what `fill` took."""
        self._filler.unlink(missing_ok=True)

    def close(self) -> None:
        """Put the file system away, with all that is in it."""
        _mount("umount", "-l", str(self.folder))


class Clock:
    """The clock of a side, which can be set; without a C compiler there is none."""

    def __init__(self, folder: Path, name: str) -> None:
        self._file, self._library = folder / f"{name}.clock", folder / "shifted_clock.so"
        self._file.write_bytes(struct.pack("q", 0))
        compiler = shutil.which("cc")
        if compiler and not self._library.exists():
            command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(self._library), str(SHIM), "-ldl"]
            subprocess.run(command, check=True)

    def environment(self) -> dict[str, str]:
        """Return what has a process read this clock."""
        if not self._library.exists():
            return {}
        return {
            "LD_PRELOAD": str(self._library),
            "SHIFTED_CLOCK": str(self._file),
            "SHIFTED_CLOCK_NOT": "fedquit.server.service",
        }

    def set_ahead(self, seconds: int) -> None:
        """Set it; processes that read it see that at once."""
        with self._file.open("r+b") as file:
            file.write(struct.pack("q", seconds))


class Site(Deployment):
    """See the module.

    Args:
        folder: of a deployment that nothing runs in.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        sides = {"server": self.server, **{name: self.kits[name].folder for name in DEVICES}}
        self.forwarders = {name: Forwarder(self.federation.server.fleet_port) for name in DEVICES}
        for name, forwarder in self.forwarders.items():
            path = self.kits[name].folder / "device.toml"
            old, new = self.kits[name].superlink, f"localhost:{forwarder.port}"
            path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
        self._living, self._looked = list[Process](), 0.0
        self.disks = {name: Disk(folder) for name, folder in sides.items()}
        self.clocks = {name: Clock(self.folder, name) for name in sides}
        self.services: dict[str, subprocess.Popen[bytes]] = {}
        self.restarts = 0
        self._ended: dict[str, float] = {}

    def begin(self) -> None:
        """Start the server and the devices."""
        for name in ("server", *DEVICES):
            self._start(name)

    def _start(self, name: str) -> None:
        command = ["serve", self.server] if name == "server" else ["join", self.kits[name].folder]
        self.services[name] = self.run(name, *command, environment=self.clocks[name].environment())

    def tend(self) -> None:
        """Start again what has ended, as an init system does."""
        for name, service in list(self.services.items()):
            if service.poll() is None:
                continue
            if time.monotonic() >= self._ended.setdefault(name, time.monotonic()) + PAUSE:
                self.restarts += 1
                del self._ended[name]
                self._start(name)

    def found(self, target: Target) -> list[Process]:
        """Return the processes of a part that live now; of nginx the master comes first."""
        if target.device:
            return self._of_device(target)
        if target.part == "proxy":
            return self._proxy()
        return self.processes(target.part, home=self.server / "flower" if target.part in HERE else None)

    def _proxy(self) -> list[Process]:
        """Find nginx by the file of process groups, as it overwrites the environment that has the mark."""
        try:
            groups = json.loads((self.server / "logs" / process_groups.FILE).read_text(encoding="utf-8"))["groups"]
            master = int(groups["proxy"]["pid"])
        except (OSError, ValueError, KeyError):
            return []
        pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())
        group = [p for pid in pids if (p := process_groups.process_of(pid)) and p.group == master]
        return [Process(p.pid, "nginx") for p in sorted(group, key=lambda p: p.pid != master)]

    def _of_device(self, target: Target) -> list[Process]:
        kit = self.kits[target.device].folder
        if target.part == "join":
            return [process for process in self.processes("join") if str(kit) in process.command.split()]
        own = self.processes(home=kit / "flower")
        if target.part == "all of the device":
            return [*self._of_device(Target("join", target.device)), *own]
        if target.part in ("SuperNode", SUPEREXEC):  # forked from it, with one command line for both
            flower = [process for process in own if "flower-supernode" in process.command]
            return [process for process in flower if _leads(process) == (target.part == "SuperNode")]
        return [process for process in own if process.part == target.part]

    def missing(self) -> list[str]:
        """Return the parts that should live and do not, or live more than once."""
        once = [Target(part) for part in ("SuperLink", "SuperExec", "ServerApp", "forget service", "page", "serve")]
        once += [Target(part, name) for name in DEVICES for part in ("SuperNode", SUPEREXEC, "join")]
        numbers = {str(target): len(self.found(target)) for target in once}
        numbers["proxy"] = len(self._proxy()[:1])
        return [f"{number} x {name}" for name, number in numbers.items() if number != 1]

    def processes(self, *parts: str, home: Path | None = None) -> list[Process]:
        """Return those that live; looks at all of the machine's no more than a few times a second."""
        if time.monotonic() >= self._looked + STALE:
            self._living, self._looked = super().processes(), time.monotonic()
        here = [process for process in self._living if home is None or process.home == str(home)]
        return [process for process in here if not parts or process.part in parts]

    def close(self) -> None:
        """End everything, and put the disks away."""
        for forwarder in self.forwarders.values():
            forwarder.refuse()
        for clock in self.clocks.values():
            clock.set_ahead(0)
        for process in self.processes():
            process.signal(signal.SIGCONT)
        self.stop()
        with contextlib.suppress(FedquitError):
            process_groups.clear(self.server / "logs", 5.0)  # nginx, which overwrites its environment
        for disk in self.disks.values():
            disk.close()


def _leads(process: Process) -> bool:
    """Say whether a process leads its group."""
    found = process_groups.process_of(process.pid)
    return found is not None and found.group == process.pid


@contextlib.contextmanager
def site(folder: Path) -> Iterator[Site]:
    """Make a site in a new folder, and run it; all of it has ended when the context is left."""
    made(folder, TABLES, samples=SAMPLES, proxy=True)
    running = Site(folder / "out")
    try:
        running.begin()
        yield running
    finally:
        for name in ("server", *DEVICES):  # for who looks at what went wrong
            source = running.server if name == "server" else running.kits[name].folder
            shutil.copytree(source / "logs", folder / "logs" / name, dirs_exist_ok=True)
        with contextlib.suppress(OSError):
            shutil.copy(running.server / "ledger.db", folder / "ledger.db")
        running.close()


def put_away(folder: Path) -> None:
    """Unmount what a campaign that was killed left mounted below a folder."""
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    for path in sorted((line.split()[1] for line in mounts), reverse=True):
        if Path(path).is_relative_to(folder.resolve()):
            _mount("umount", "-l", path)


def _mount(*command: str) -> None:
    if os.geteuid() != 0:
        raise FedquitError("disks that can fill are file systems of their own: run this as root")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FedquitError(f"{' '.join(command)}: {done.stderr.strip()}")
