"""When the SuperNode and its server last understood each other: noted in its process, read by who keeps it alive.

A SuperNode may live without a connection: Flower has reasons of its own to give up or to wait, and a process may hang.
So its process notes each answer of the server in a file of eight bytes, the seconds of the machine's clock that nobody
sets. The file is mapped into memory: noting takes no space on the disk.

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
    """Count from now on: to be called before a SuperNode starts."""
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
    """Return `httpx.Client.send` which notes when an answer of the server came that is no error."""
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
