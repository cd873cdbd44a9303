"""Why a device refused messages, read from its SuperNode's output: `fedquit join` shows it to the owner.

A refused message ends in one of fedquit's errors. The error goes to the server as a reply, and into the SuperNode's log
as the last line of a traceback; the owner would look in neither.
"""

import re
import threading
import time
from collections.abc import Callable

from fedquit.documents import Listener

ERROR = re.compile(r"\s*fedquit\.errors\.\w+: (?P<reason>.+)")
AGAIN = 3600.0
"""Seconds after which the same reason is shown again."""


class Refusals:
    """Tells a listener why messages are refused: each reason once an hour.

    Args:
        listener: called with an event for each.
        clock: returns the time, seconds.

    >>> refusals = Refusals(lambda event: print(event["reason"]))
    >>> for line in ["INFO: pulled", "fedquit.errors.InputError: no data", "fedquit.errors.InputError: no data"]:
    ...     refusals.hear(line)
    no data
    """

    def __init__(self, listener: Listener, clock: Callable[[], float] = time.monotonic) -> None:
        self._listener, self._clock = listener, clock
        self._said: dict[str, float] = {}
        self._lock = threading.Lock()

    def hear(self, line: str) -> None:
        """Take in a line of the SuperNode's output."""
        found = ERROR.fullmatch(line)
        if found is None:
            return
        now, reason = self._clock(), found["reason"]
        with self._lock:
            self._said = {said: at for said, at in self._said.items() if now - at < AGAIN}
            if reason in self._said:
                return
            self._said[reason] = now
        self._listener({"event": "refused", "part": "supernode", "reason": reason})
