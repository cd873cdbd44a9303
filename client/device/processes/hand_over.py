"""The `flwr-clientapp` that a device's SuperExec finds: hands the message to a warm process, if there is one.

python -IS hand_over.py FOLDER flwr-clientapp ARGUMENTS...

Flower starts `flwr-clientapp` for each message, and that takes seconds to import before it does anything. If a process
of `warm_clientapp` listens in FOLDER, it carries the message out, in a process of its own that has all of it imported;
this one waits for its end. If none does, Flower's own program runs, as it would have without this one; then this
process becomes the one that is ready for the next message. Standard library only, and without site-packages: it starts
in hundredths of a second. Linux only.
"""

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import sys
import time

SOCKET, LOCK = "warm.sock", "warm.lock"
ACCEPTED, BEGIN = b"+", b"!"
"""What the ready process says when it has the message, and what it waits for before it begins."""
TOKEN = "FEDQUIT_TASK_TOKEN"  # noqa: S105 - the variable's name; `fedquit.processes.hidden_token` is not imported here
APPROVED = "fedquit.client.device.processes.approved_clientapp"
"""Flower's own program, kept to the code that the device's owner approved; it takes the token from the environment."""
STARTING = 10.0
"""Seconds that a message waits for a process that is still being started, or hangs: Flower gives it up after 30."""
POLL = 0.05


def main(folder: str, program: str, arguments: list[str]) -> None:
    """Carry out a message of Flower's; its token is in the environment, and comes on no command line."""
    token = os.environ.pop(TOKEN, "")
    code = handed_over(folder, [*arguments, "--token", token] if token else arguments)
    if code is not None:
        sys.exit(code)
    if token:
        own, with_it = [sys.executable, "-m", APPROVED], {**os.environ, TOKEN: token}
        code = subprocess.call([*own, *arguments], env=with_it)  # noqa: S603 - Flower's own command
    else:
        code = subprocess.call([_found(program, folder), *arguments])  # noqa: S603 - Flower's own command
    lock = locked(folder)
    if lock is not None:
        os.set_inheritable(lock, True)
        os.execv(sys.executable, become_ready(folder, lock))  # noqa: S606 - this program
    sys.exit(code)


def become_ready(folder: str, lock: int) -> list[str]:
    """Return the command of a process that is ready for messages in `folder`, and holds the lock as file `lock`."""
    return [sys.executable, "-m", "fedquit.client.device.processes.warm_clientapp", folder, str(lock)]


def handed_over(folder: str, arguments: list[str]) -> int | None:
    """Hand a message over and return the exit code that it ended with; None: nobody took it, or not in `STARTING` s.

    Once it was taken it is not tried again, whatever becomes of it: Flower's token is for one process. Whoever would
    take it later finds that nobody listens, and does not begin.
    """
    connection = None
    with contextlib.suppress(OSError):  # such as a folder that is gone: no reason to lose a message
        connection = _connected(folder)
    if connection is None:
        return None
    begun, said = False, b""
    with connection, contextlib.suppress(OSError):
        connection.settimeout(STARTING)
        socket.send_fds(connection, [json.dumps(arguments).encode() + b"\n"], [1, 2])
        if connection.recv(1) != ACCEPTED:
            return None
        connection.sendall(BEGIN)  # not sent: not begun. Given up a moment before, it would else be carried out twice
        begun = True
        connection.settimeout(None)
        said = b"".join(iter(lambda: connection.recv(64), b""))
    if not begun:
        return None
    return int(said) if said.isdigit() else 1  # nothing said: it was killed


def _connected(folder: str) -> socket.socket | None:
    """Connect to the process that is ready; where it is being started, wait for it a little."""
    end, place = time.monotonic() + STARTING, address(folder)
    while True:
        connection = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(OSError):
            connection.connect(place)
            return connection
        connection.close()
        lock = locked(folder)
        if lock is not None or time.monotonic() > end:  # nobody starts one
            if lock is not None:
                os.close(lock)
            return None
        time.sleep(POLL)


def locked(folder: str) -> int | None:
    """Return an open file that holds the lock of who is ready in `folder`; None: another holds it, or nobody can."""
    try:
        file = os.open(f"{folder}/{LOCK}", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        return None
    return file


def remove_stale_socket(folder: str) -> None:
    """Remove the socket of a process that was killed while it was ready; one that is ready keeps its own."""
    lock = locked(folder)
    if lock is not None:
        with contextlib.suppress(OSError):
            os.unlink(f"{folder}/{SOCKET}")  # noqa: PTH108 - no pathlib, which takes time
        os.close(lock)


def address(folder: str) -> str:
    """Return the socket in `folder` by a name that is short enough for one, however long the folder's is."""
    return f"/proc/self/fd/{os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)}/{SOCKET}"


def _found(program: str, folder: str) -> str:
    """Return where a program is: the first on the path that is not in `folder`, which is this one."""
    for place in os.environ.get("PATH", "").split(os.pathsep):
        found = os.path.join(place, program)  # noqa: PTH118 - no pathlib, which takes time
        if os.access(found, os.X_OK) and place != folder:
            return found
    sys.exit(f"{program}: there is no such program on the path")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
