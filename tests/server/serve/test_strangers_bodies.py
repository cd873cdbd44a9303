"""What strangers send does not fill the SuperLink's memory: a real SuperLink behind nginx, as `serve` runs them."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedquit.processes.supervisor import listens
from fedquit.server.provision.deployment_files import nginx
from fedquit.server.serve.superlink import Flower
from tests.harness.processes import Withheld, program
from tests.harness.waiting import STILL, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads memory in /proc")
STRANGERS = 30


def megabytes(pid: int) -> float:
    """Return how much memory a process has had at most."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1000


@pytest.fixture
def pid(flower: Flower) -> int:
    """Return the process that listens on the SuperLink's port."""
    port = flower.federation.server.superlink_port
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and f"--port\0{port}".encode() in (entry / "cmdline").read_bytes():
            return int(entry.name)
    raise AssertionError("no SuperLink")


@pytest.fixture
def proxy(flower: Flower) -> Iterator[int]:
    """Run nginx before the SuperLink, and yield the port of devices."""
    command, port = [program("nginx")], flower.federation.server.fleet_port
    (flower.folder / "nginx.conf").write_text(nginx(flower.federation, flower.folder))
    command += ["-c", str(flower.folder / "nginx.conf"), "-e", str(flower.folder / "error.log")]
    process = subprocess.Popen(command)
    try:
        until(lambda: listens(port), "proxy")
        yield port
    finally:
        process.terminate()
        process.wait(STILL)


@pytest.mark.timeout(900)
def test_bodies_of_strangers_do_not_fill_the_superlinks_memory(flower: Flower, pid: int, proxy: int) -> None:
    before, strangers = megabytes(pid), []
    for size in (60_000_000, 5_000_000):
        strangers += [Withheld(proxy, size, flower.folder / "ca.crt") for _ in range(STRANGERS)]
        grown = megabytes(pid) - before
        print(f"{STRANGERS} bodies of {size} bytes, withheld: {before:.0f} MB + {grown:.0f} MB")
        assert grown < 20
