"""A warm ClientApp: it has imported everything, forks a process for each message, and sees no message itself.

`hand_over` becomes this process after a message, and hands over those that follow. Each is carried out by a process
that was forked for it and ends with it, as isolated from the others as Flower has it: between messages no model and no
data is in memory, only code. After `LINGER` seconds without a message this process ends too, and takes its memory with
it. Linux only.
"""

import contextlib
import gc
import json
import os
import random
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from fedquit.client.device.processes.approved_clientapp import PROGRAM, approved_program, kit_folder
from fedquit.client.device.processes.hand_over import ACCEPTED, BEGIN, SOCKET, address

LINGER = 60.0
"""Seconds without a message after which this process ends."""
LOOK = 0.5
LONGEST = 65_536
"""Bytes that a message's arguments may take."""
IMPORTS = ("fedquit.client.app", "fedquit.client.device.local_data.gather", "safetensors.torch", "PIL.Image")
"""What messages import."""


def main(folder: Path) -> None:
    """Import what messages need, and carry them out as they come to the socket in `folder`."""
    run = approved_program(kit_folder())
    for name in IMPORTS:
        import_module(name)
    serve(folder, run, LINGER)


def serve(folder: Path, program: Callable[[], object], linger: float) -> None:
    """Fork a process that runs `program` for each message, until none came for `linger` seconds.

    Args:
        folder: of the socket; the caller holds its lock.
        program: what to run; it reads its arguments from `sys.argv`.
        linger: seconds.
    """
    (folder / SOCKET).unlink(missing_ok=True)
    at_work = set[int]()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address(str(folder)))
        (folder / SOCKET).chmod(0o600)
        listening.listen()
        listening.settimeout(LOOK)
        gc.freeze()  # what was imported stays shared
        end = time.monotonic() + linger
        while at_work or time.monotonic() < end:
            at_work -= {pid for pid in at_work if os.waitpid(pid, os.WNOHANG)[0]}
            with contextlib.suppress(TimeoutError):
                connection, _ = listening.accept()
                with connection:
                    if _is_ours(connection):
                        at_work.add(_forked(listening, connection, program))
            end = time.monotonic() + linger if at_work else end
    (folder / SOCKET).unlink(missing_ok=True)


def _is_ours(connection: socket.socket) -> bool:
    """Say whether a process of this user is at the other end."""
    said = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, user, _ = struct.unpack("3i", said)
    return bool(user == os.getuid())


def _forked(listening: socket.socket, connection: socket.socket, program: Callable[[], object]) -> int:
    """Return the process that carries out the message that comes over a connection."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        listening.close()
        connection.settimeout(None)
        code = _carry_out(connection, program)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        with contextlib.suppress(OSError):
            connection.sendall(str(code).encode())
        os._exit(code)


def _carry_out(connection: socket.socket, program: Callable[[], object]) -> int:
    """Run the program with the arguments and the outputs that come over the connection, and return its exit code."""
    said, files, _, _ = socket.recv_fds(connection, LONGEST, 2)
    while not said.endswith(b"\n"):
        said += connection.recv(LONGEST) or b"\n"
    for mine, theirs in zip((1, 2), files, strict=True):
        os.dup2(theirs, mine)
        os.close(theirs)
    sys.argv = [PROGRAM, *json.loads(said)]
    _make_new()
    connection.sendall(ACCEPTED)
    if connection.recv(1) != BEGIN:  # the message was given up meanwhile; Flower's own program has it
        return 1
    threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
    try:
        program()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return 0


def _make_new() -> None:
    """Renew everything that a new process would have drawn at random, so that no two messages share it."""
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def _end_with(connection: socket.socket) -> None:
    """End this process when the one that handed the message over is gone."""
    with contextlib.suppress(OSError):
        connection.recv(1)
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))  # the lock is open as file sys.argv[2], and ends with this process
