"""What a device refused or retired, found in what its SuperNode says: `fedquit join` shows it to the owner.

A message that the device refuses ends in one of fedquit's errors. It goes to the server as a reply and into the
SuperNode's log, below the lines of a traceback; its owner would look in neither. A reason may quote what the server
chose, so it is made one short line of printable characters, and so many an hour are said. What is retired because the
server says that somebody asked, the process of the message says in a line of its own (`retired_line`).
"""

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Sequence

from fedquit.documents import Listener

ERROR = re.compile(r"\s*fedquit\.errors\.\w+: (?P<reason>.+)")
RETIRED = "fedquit retired "
AGAIN = 3600.0
"""Seconds after which the same reason is said again."""
MOST, LONGEST = 20, 300
"""At most this many reasons an hour are said, and this many characters of each."""


class Refusals:
    """Tells a listener why messages are refused, and what they had this device retire.

    Each is told once an hour, and of either kind `MOST` in an hour.

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
        self._said: dict[str, dict[str, float]] = {"refused": {}, "retired": {}}
        self._lock = threading.Lock()

    def hear(self, line: str) -> None:
        """Take in a line of the SuperNode's output."""
        found = ERROR.fullmatch(line)
        if found is not None:
            self._say({"event": "refused", "part": "supernode", "reason": readable(found["reason"])})
        elif line.startswith(RETIRED):
            with contextlib.suppress(ValueError, TypeError, KeyError):  # a line that only looks like one of ours
                told = json.loads(line.removeprefix(RETIRED))
                request, what = readable(str(told["request"])), readable(str(told["what"]))
                self._say({"event": "retired", "part": "supernode", "request": request, "what": what})

    def _say(self, event: dict[str, str]) -> None:
        now, kind, text = self._clock(), event["event"], repr(event)
        with self._lock:
            said = {each: at for each, at in self._said[kind].items() if now - at < AGAIN}
            self._said[kind] = said
            if text in said or len(said) >= MOST:
                return
            said[text] = now
        self._listener(event)


def retired_line(request: str, classes: Sequence[str]) -> str:
    """Return the line in which a process says what it retired at the word of the server.

    >>> retired_line("5ba1", ["3", "7"])
    'fedquit retired {"request": "5ba1", "what": "class 3, 7"}'
    """
    what = f"class {', '.join(classes)}" if classes else "all of this device"
    return RETIRED + json.dumps({"request": request, "what": what})


def readable(text: str) -> str:
    r"""Return a text of somebody else's as a part of a line for a terminal.

    >>> readable("lr\x1b[2J\rok")
    'lr?[2J?ok'
    """
    shown = "".join(each if each.isprintable() else "?" for each in text[: LONGEST + 1])
    return shown if len(text) <= LONGEST else f"{shown[: LONGEST - 1]}…"
