"""The processes of a part as one group: ended together, and found again after the supervisor was killed.

A parent-death signal reaches the main process of a part alone. If that one is killed, what it forked (nginx's workers)
keeps its ports. So each part leads a process group of its own, and a file names each group's leader by pid and start
time: whoever starts next ends what is left of them. Finding them again needs /proc (Linux).
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedquit.errors import FedquitError
from fedquit.files import write_json

FILE = "processes.json"
POLL = 0.05


@dataclass(frozen=True, slots=True)
class Process:
    """A process as /proc shows it.

    Attributes:
        pid: its id; `group` and `session`: those it belongs to.
        started: clock ticks from the start of the machine to its own.
    """

    pid: int
    group: int
    session: int
    started: int


def process_of(pid: int) -> Process | None:
    """Return a process that is there; None: it is not, it is a zombie, or this system has no /proc."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # proc(5): the third field is first
        if fields[0] not in "ZX":
            return Process(pid, int(fields[2]), int(fields[3]), int(fields[19]))
    return None


def is_over(process: "subprocess.Popen[str]") -> bool:
    """Say whether a process has ended; where the system can, leave its id taken, so that its group is still its own."""
    if process.returncode is not None or not hasattr(os, "waitid"):
        return process.poll() is not None
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return process.poll() is not None


def wait_until_over(process: "subprocess.Popen[str]", seconds: float) -> None:
    """Wait until a process has ended, for `seconds` at most."""
    end = time.monotonic() + seconds
    while not is_over(process) and time.monotonic() < end:
        time.sleep(POLL)


def end_group(process: "subprocess.Popen[str]") -> int:
    """Kill what is left of the group that a process leads, and return the process's exit code."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    return process.wait()


def remember(folder: Path, leaders: Mapping[str, int]) -> None:
    """Write down who leads the groups of this supervisor: the pid of each part by its name.

    On a full disk nothing is written: if this supervisor is then killed as well, taken ports are all that tells.
    """
    found = {name: process for name, pid in leaders.items() if (process := process_of(pid))}
    own = process_of(os.getpid())
    if own is None:
        return
    groups = {name: {"pid": process.pid, "started": process.started} for name, process in found.items()}
    document = {"machine": _machine(), "session": own.session, "pid": own.pid, "started": own.started, "groups": groups}
    with contextlib.suppress(FedquitError):
        write_json(folder / FILE, document)


def forget(folder: Path) -> None:
    """Remove the file: all groups have ended."""
    (folder / FILE).unlink(missing_ok=True)


def clear(folder: Path, grace: float) -> dict[str, int]:
    """End what a supervisor that was killed left running.

    Args:
        folder: of the file.
        grace: seconds for the processes to end by themselves.

    Returns:
        The number of processes of each part that were ended.

    Raises:
        FedquitError: that supervisor is alive.
    """
    try:
        document = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if document["machine"] != _machine() or document["pid"] == os.getpid():
        return {}
    supervisor = process_of(document["pid"])
    if supervisor is not None and supervisor.started == document["started"]:
        raise FedquitError(f"process {supervisor.pid} keeps the parts in {folder} alive already; end that one first")
    left = {name: _left(group, document["session"]) for name, group in document["groups"].items()}
    _end([process for found in left.values() for process in found], grace)
    forget(folder)
    return {name: len(found) for name, found in left.items() if found}


def _left(group: Mapping[str, Any], session: int) -> list[Process]:
    """Return what is left of a group; a number that has become another's group since then is nobody of ours."""
    leader = process_of(group["pid"])
    if leader is not None and leader.started != group["started"]:
        return []
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())
    found = [process for pid in pids if (process := process_of(pid)) and process.group == group["pid"]]
    return [process for process in found if process.session == session and process.started >= group["started"]]


def _end(processes: list[Process], grace: float) -> None:
    """End processes: by asking, and after `grace` seconds by force."""
    left = processes
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, grace)):
        for process in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, number)
        end = time.monotonic() + seconds
        while left and time.monotonic() < end:
            left = [process for process in left if process_of(process.pid) == process]
            time.sleep(POLL)


def _machine() -> str:
    """Return what tells this run of the machine, and this container, from any other: pids start again in each."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return ""
