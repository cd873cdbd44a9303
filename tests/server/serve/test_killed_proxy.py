"""A proxy whose master is killed serves again, and so does a server that is killed as a whole: nginx and `serve`."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedquit.processes.process_groups import process_of
from fedquit.processes.supervisor import listens
from tests.harness.waiting import until
from tests.server.serve.test_bind import ONE, made, serving

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") is None,
    reason="needs nginx and /proc",
)


def next_event(process: "subprocess.Popen[str]", kind: str, part: str | None = None) -> dict[str, Any]:
    """Read what `serve` says until it tells this of this part."""
    assert process.stdout is not None
    told = []
    for line in process.stdout:
        event: dict[str, Any] = json.loads(line)
        told.append(event)
        if event.get("event") == kind and event.get("part") == part:
            return event
    raise AssertionError(f"serve ended: {told}")


def group(leader: int) -> set[int]:
    """Return the processes of a group that live."""
    found = [process_of(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    return {process.pid for process in found if process and process.group == leader}


@pytest.mark.timeout(900)
def test_a_killed_proxy_serves_again_and_a_killed_server_starts_again(tmp_path: Path) -> None:
    folder, ports = made(tmp_path)
    with serving(folder) as first:
        master = next_event(first, "started", "proxy")["pid"]
        next_event(first, "ready")
        workers = group(master) - {master}
        assert workers
        os.kill(master, signal.SIGKILL)
        second = next_event(first, "started", "proxy")["pid"]
        until(lambda: len(group(second)) > 1, "proxy with workers")
        assert not group(master), "the workers of the killed one are gone"
        assert listens(ports[0], ONE)
        first.send_signal(signal.SIGSTOP)  # nobody restarts the proxy until all is killed
        os.kill(second, signal.SIGKILL)
        first.kill()
        first.wait()
        assert listens(ports[0], ONE), "its workers hold the port"
    with serving(folder) as again:
        assert next_event(again, "cleared", "proxy")["processes"] >= 1
        next_event(again, "ready")
        assert listens(ports[0], ONE)
