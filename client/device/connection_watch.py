"""Restart a device's SuperNode when it has lost its connection although the server is reachable.

`python -m fedquit.client.device.connection_watch KIT` says whether the device that runs there is connected: the health
check of a container.
"""

import http.client
import random
import ssl
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fedquit.client.device.last_exchange import FLEET, seconds_since
from fedquit.client.kit import Kit
from fedquit.errors import FedquitError, InputError

SILENT = 120.0
"""Seconds without an exchange after which the SuperNode is started again. Flower polls every 3 s, and pauses 20 s."""
UNHEALTHY = 300.0
"""Seconds without an exchange after which a device counts as unconnected: two restarts have not helped."""
BETWEEN = 30.0
"""Seconds at most between two looks whether a server that is silent answers."""
PATIENCE = 10.0  # seconds for an answer of the server


class ConnectionWatch:
    """Ends a SuperNode that has not heard from its server for too long.

    Args:
        kit: of the device.
        file: of the last exchange.
        end: ends the SuperNode, if it lives; it is then started again, after a pause.
        listener: called before that.
        silent: seconds; see `SILENT`.
    """

    def __init__(
        self,
        kit: Kit,
        file: Path,
        end: Callable[[], None],
        listener: Callable[[Mapping[str, Any]], None],
        silent: float = SILENT,
    ) -> None:
        self._kit, self._file, self._end, self._listener, self._silent = kit, file, end, listener, silent
        self._next = 0.0

    def look(self) -> None:
        """End the SuperNode if it has not heard from its reachable server for `silent` seconds; call this often."""
        if seconds_since(self._file) < self._silent or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + min(self._silent, BETWEEN) * random.uniform(0.5, 1)
        if not self._answers():
            return  # nothing is to be mended here: Flower tries again by itself
        seconds = seconds_since(self._file)
        if seconds >= self._silent:  # still
            self._listener({"event": "silent", "part": "supernode", "seconds": round(seconds, 1)})
            self._end()

    def _answers(self) -> bool:
        try:
            status, _ = ask_server(self._kit, FLEET)
        except (InputError, OSError, http.client.HTTPException):
            return False
        return status < 500  # else it is the proxy that answers, and the SuperLink is away


def ask_server(kit: Kit, path: str = "/") -> tuple[int, str | None]:
    """Return the HTTP status of the server's reply, and its date.

    Raises:
        InputError: the certificate or the address in the kit cannot be used.
        OSError, http.client.HTTPException: it does not answer.
    """
    try:
        context = ssl.create_default_context(cafile=str(kit.authority_file))
        host, port = address(kit.superlink)
    except (OSError, ValueError) as error:
        raise InputError(f"{kit.authority_file} or the address '{kit.superlink}' cannot be used ({error})") from error
    connection = http.client.HTTPSConnection(host, port, timeout=PATIENCE, context=context)
    try:
        connection.request("HEAD", path)
        response = connection.getresponse()
        return response.status, response.getheader("Date")
    finally:
        connection.close()


def address(text: str) -> tuple[str, int]:
    """Return the host and the port of HOST:PORT.

    Raises:
        ValueError: it is none.

    >>> address("[::1]:9443")
    ('::1', 9443)
    """
    parts = urlsplit(f"//{text}")
    if not parts.hostname or not parts.port:
        raise ValueError("write HOST:PORT")
    return parts.hostname, parts.port


def is_connected(folder: Path) -> str:
    """Return when the device of the kit in `folder` last heard from its server, if that is not too long ago.

    Raises:
        FedquitError: it is too long ago, or `fedquit join` has never run there.
    """
    file = folder / "flower" / "last-exchange"
    if not file.is_file():
        raise FedquitError(f"{folder}: no device has run here; start it with fedquit join {folder}")
    seconds = seconds_since(file)
    if seconds > UNHEALTHY:
        raise FedquitError(
            f"{folder}: no reply from the server for {seconds:.0f} s; can it be reached, and is fedquit join running?"
        )
    return f"the server replied {seconds:.0f} s ago"


if __name__ == "__main__":
    try:
        print(is_connected(Path(sys.argv[1])))  # noqa: T201
    except FedquitError as error:
        print(f"fedquit: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
