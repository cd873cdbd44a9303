"""Why a device refused messages, read from its SuperNode's output: `fedquit join` shows it to the owner.

A message that the device refuses ends in one of fedquit's errors. It goes to the server as a reply and into the
SuperNode's log, below the lines of a traceback; its owner would look in neither. A reason may quote what the server
chose, so it is made one short line of printable characters, and so many an hour are said.
"""

import re
import threading
import time
from collections.abc import Callable

from fedquit.documents import Listener

ERROR = re.compile(r"\s*fedquit\.errors\.\w+: (?P<reason>.+)")
AGAIN = 3600.0
"""Seconds after which the same reason is said again."""
MOST, LONGEST = 20, 300
"""At most this many reasons an hour are said, and this many characters of each."""


class Refusals:
    """Tells a listener why messages are refused: each reason once an hour, `MOST` in an hour.

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
        now, reason = self._clock(), readable(found["reason"])
        with self._lock:
            self._said = {said: at for said, at in self._said.items() if now - at < AGAIN}
            if reason in self._said or len(self._said) >= MOST:
                return
            self._said[reason] = now
        self._listener({"event": "refused", "part": "supernode", "reason": reason})


def readable(text: str) -> str:
    r"""Return a text of somebody else's as a part of a line for a terminal.

    >>> readable("lr\x1b[2J\rok")
    'lr?[2J?ok'
    """
    shown = "".join(each if each.isprintable() else "?" for each in text[: LONGEST + 1])
    return shown if len(text) <= LONGEST else f"{shown[: LONGEST - 1]}…"
