"""The time of the SuperNode's last successful exchange with its server: written by its process, read by `fedquit join`.

A SuperNode may run without a connection: Flower sometimes gives up or waits, and a process may hang. So its process
writes the time of each reply of the server, in seconds of the machine's monotonic clock, to a file of eight bytes. The
file is mapped into memory: writing needs no free space on the disk.

`python -m fedquit.client.device.last_exchange flower-supernode ...` does what `flower-supernode ...` does, and notes.
"""

import functools
import mmap
import os
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedquit.processes import end_together
from fedquit.processes.hidden_token import HidingPopen

VARIABLE = "FEDQUIT_LAST_EXCHANGE"
"""Names the file to the process of the SuperNode."""
FLEET = "/v1/fleet/"
"""Where the server answers SuperNodes; the proxy passes nothing else on to the SuperLink."""
SECONDS = struct.Struct("d")


def begin(path: Path) -> None:
    """Start counting from now; call it before a SuperNode starts."""
    if not path.exists() or path.stat().st_size < SECONDS.size:
        path.write_bytes(bytes(SECONDS.size))
    with path.open("r+b") as file:  # not made anew: a SuperNode that is ending may have it mapped
        file.write(SECONDS.pack(time.monotonic()))


def seconds_since(path: Path) -> float:
    """Return the seconds since the last exchange, or since `begin`; 0 if that cannot be read."""
    try:
        (at,) = SECONDS.unpack(path.read_bytes()[: SECONDS.size])
    except (OSError, struct.error):
        return 0.0
    return max(0.0, time.monotonic() - float(at))


def noting(send: Callable[..., Any], path: Path) -> Callable[..., Any]:
    """Return `httpx.Client.send`, wrapped to record the time of each reply of the server that is not an error."""
    with path.open("r+b") as file:
        at = mmap.mmap(file.fileno(), SECONDS.size)

    @functools.wraps(send)
    def noted(*arguments: Any, **how: Any) -> Any:
        response = send(*arguments, **how)
        if response.is_success and response.url.path.startswith(FLEET):  # not what local processes say to each other
            at[:] = SECONDS.pack(time.monotonic())
        return response

    return noted


def main() -> None:
    """Run the program that the command line names, and note each exchange in the file that the environment names."""
    import httpx  # Flower's client

    if path := os.environ.get(VARIABLE):
        httpx.Client.send = noting(httpx.Client.send, Path(path))  # type: ignore[method-assign]
    subprocess.Popen = HidingPopen  # type: ignore[misc]  # for the SuperExec, forked from here
    end_together.main()


if __name__ == "__main__":
    main()
