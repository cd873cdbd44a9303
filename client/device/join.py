"""A device in its federation: Flower's SuperNode with the kit's key, kept alive, apart from any other Flower.

Each message is carried out by a process that is gone when it is answered: between messages no model and no data is in
memory. KIT/flower/ holds what Flower keeps, KIT/logs/ what it says.

On Linux the SuperNode and the SuperExec, which starts those processes, share the memory of what they import; and a
message that comes within a minute of another finds a process that has imported what it needs (`processes`).
"""

import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from fedquit.client.device.connection_watch import SILENT, ConnectionWatch
from fedquit.client.device.last_exchange import VARIABLE, begin
from fedquit.client.device.processes.refusals import Refusals
from fedquit.client.kit import Kit
from fedquit.documents import Listener
from fedquit.errors import FedquitError
from fedquit.files import explained, write_whole
from fedquit.processes.end_together import AND
from fedquit.processes.hidden_token import PROGRAMS
from fedquit.processes.supervisor import Part, Supervisor, line_of_part

LINUX, POSIX = sys.platform == "linux", os.name == "posix"
CLIENTAPP = "flwr-clientapp"
HAND_OVER = Path(__file__).parent / "processes" / "hand_over.py"
LOOK_EVERY = "0.2"
"""Seconds between two looks of the SuperExec at the SuperNode, which is on the same machine."""
REFUSED = "Exit Code: 305"
"""The last line of a SuperNode that is not let in."""
BROKEN = "SSL/TLS handshake error detected"
"""What a SuperNode says when a connection broke while it was being secured."""


def check(folder: Path, listener: Listener, *, patient: bool = True) -> int:
    """Carry out the checks of the device in a process of their own, which takes the memory with it.

    Args:
        folder: the kit.
        listener: called with the finding of each check.
        patient: continue where the server cannot be reached yet.

    Returns:
        The exit code to end with; 0: continue.
    """
    command, codes = [sys.executable, "-m", "fedquit.client.device.device_checks", str(folder)], [0]
    bad = ("wrong",) if patient else ("wrong", "warning")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as checking:  # noqa: S603 - our own command
        for line in checking.stdout or ():
            found = json.loads(line)
            codes += [found["code"]] if found["state"] in bad else []
            listener({"event": "check", **found})
    return checking.returncode or max(codes, default=0)


@dataclass(frozen=True, slots=True)
class KeptDevice:
    """A device that is kept alive and connected.

    Attributes:
        supervisor: of its SuperNode.
        watch: to be called about once a second: ends a SuperNode that has no connection.
        lock: held for as long as this process runs the kit.
    """

    supervisor: Supervisor
    watch: ConnectionWatch
    lock: filelock.BaseFileLock


def make_device(folder: Path, listener: Listener, silent: float = SILENT) -> KeptDevice:
    """Return what keeps the device of the kit in `folder` alive.

    Args:
        folder: the kit.
        listener: called with what happens.
        silent: seconds without an answer of the server after which the SuperNode is started again, if the server is
            there.

    Raises:
        FedquitError: another process runs this kit.
    """
    kit = Kit.read(folder.resolve())
    home, logs = kit.folder / "flower", kit.folder / "logs"
    with explained(kit.folder):
        home.mkdir(exist_ok=True)
        logs.mkdir(exist_ok=True)
    lock = filelock.FileLock(str(home / ".lock"), timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise FedquitError(f"another fedquit join runs the kit {kit.folder}; end that one first") from None
    file = home / "last-exchange"
    with explained(file):
        begin(file)
    told = {**environment(home, write_programs(home) if POSIX else ()), VARIABLE: str(file)}
    part = Part(
        "supernode",
        lambda: supernode(kit, free_port()),
        told,
        before=lambda: begin(file),
        on_line=Refusals(listener).hear,
    )
    supervisor = Supervisor([part], logs, lambda event: listener(_explained(event)))
    watch = ConnectionWatch(kit, file, lambda: supervisor.end("supernode"), listener, silent)
    return KeptDevice(supervisor, watch, lock)


def supernode(kit: Kit, port: int) -> list[str]:
    """Return the command that runs the SuperNode; on `port` of this machine it talks to its own processes."""
    return [
        *(sys.executable, "-m", "fedquit.client.device.last_exchange", "flower-supernode"),
        *("--superlink", kit.superlink, "--root-certificates", str(kit.authority_file)),
        *("--auth-supernode-private-key", str(kit.key_file), "--host", "127.0.0.1", "--port", str(port)),
        *("--node-config", f"kit={_quoted(str(kit.folder))}"),
        *(("--isolation", "process", AND, *superexec(port)) if LINUX else ()),
    ]


def superexec(port: int) -> list[str]:
    """Return the command that starts a process for each message of the SuperNode on `port` of this machine."""
    return ["flower-superexec", "--insecure", "--runtime-api-address", f"127.0.0.1:{port}"]


def write_programs(home: Path) -> tuple[Path, ...]:
    """Write each `flwr-clientapp` that messages are carried out by, and return their folders in the order of the path.

    On Linux one hands a message over to a process that is ready; what it starts where none is, and what is there
    elsewhere, is Flower's program kept to approved code. Only their owner reads the folders.

    Args:
        home: Flower's, in the kit.
    """
    programs = home / "programs"
    approved = programs / "approved"
    commands = {approved: [sys.executable, "-m", "fedquit.client.device.processes.approved_clientapp"]}
    if LINUX:
        commands = {programs: [sys.executable, "-IS", str(HAND_OVER), str(programs), CLIENTAPP], **commands}
    with explained(home):
        for folder in (programs, approved):
            folder.mkdir(mode=0o700, exist_ok=True)
        if LINUX:
            from fedquit.client.device.processes.hand_over import remove_stale_socket  # Windows has no fcntl

            remove_stale_socket(str(programs))
    for folder, command in commands.items():
        write_whole(folder / CLIENTAPP, f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n'.encode())
        (folder / CLIENTAPP).chmod(0o700)
    return tuple(commands)


def environment(home: Path, programs: Sequence[Path] = ()) -> dict[str, str]:
    """Return what keeps this Flower apart from any other on the machine, and its processes small.

    Args:
        home: Flower's.
        programs: folders of programs that come before all others.
    """
    before = [str(folder) for folder in programs]
    return {
        **({PROGRAMS: str(programs[0])} if programs else {}),
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": LOOK_EVERY,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "PATH": os.pathsep.join([*before, str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
    }


def line_of(event: Mapping[str, Any]) -> str:
    """Return an event as a line for people.

    >>> line_of({"event": "check", "name": "clock", "state": "ok", "text": "it agrees with the server's"})
    "ok       clock: it agrees with the server's"
    """
    if event["event"] == "check":
        return f"{event['state']:<8} {event['name']}: {event['text']}"
    if event["event"] == "silent":
        return (
            f"supernode: no answer of the server for {event['seconds']:.0f} s, and the server is there: connects anew"
        )
    if event["event"] == "refused":
        return f"refused  a message of the server: {event['reason']}"
    if event["event"] == "retired":
        said = f"as the server says that request {event['request'][:12]} asks"
        return f"retired  for good, {said}: {event['what']}"
    return line_of_part(event) + (f": {event['reason']}" if "reason" in event else "")


def free_port() -> int:
    """Return a port of this machine that nothing listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def _explained(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """Add what the SuperNode's log says of why it died."""
    if event["event"] != "died" or not Path(event["log"]).is_file():
        return event
    last = Path(event["log"]).read_text(encoding="utf-8", errors="replace")[-4000:]
    if BROKEN in last:
        reason = (
            "the connection broke while it was being secured, as when the server or a proxy before it starts or ends; "
            "if that does not pass: is this kit's ca.crt the server's?"
        )
        return {**event, "reason": reason}
    if REFUSED in last:
        reason = (
            "not yet registered; trying again: the server lets a new device in within a minute, and so one that was "
            "killed just now. If that does not pass: has the operator enrolled its key? Is its clock right? Does a "
            "copy of this kit run elsewhere?"
        )
        return {**event, "reason": reason}
    return event


def _quoted(text: str) -> str:
    """Return a text as Flower's node config wants it."""
    if '"' in text or "\\" in text:
        raise FedquitError(f"the path {text} has characters that Flower does not accept; move the kit elsewhere")
    return f'"{text}"'
