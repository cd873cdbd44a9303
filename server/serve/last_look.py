"""When the coordinator last looked who is connected, and when it saw each device: files in the server's folder.

They are for the page and for what tends the coordinator, and say nothing that is not seen again within a second: the
ledger is not touched. The time of the last look is that of a file, which takes no space; who was seen is written when
that changes, and now and then.
"""

import contextlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedquit.errors import FedquitError
from fedquit.files import explained, write_json

LOOKED = ".coordinator.looked"
"""File whose time is that of the last look."""
SEEN = ".coordinator.seen"
"""File with the members that were connected at a look, and when each was last seen."""
EVERY = 30.0
"""Seconds after which who was seen is written although nothing changed."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Who was connected, by numbers of members.

    Attributes:
        here: at the last look that was written down.
        at: Unix seconds at which each member was last seen.
    """

    here: frozenset[int] = frozenset()
    at: Mapping[int, float] = field(default_factory=dict)


def look_of(folder: Path) -> float | None:
    """Return when the devices were last looked at, Unix seconds; None: never."""
    with contextlib.suppress(OSError):
        return (folder / LOOKED).stat().st_mtime
    return None


def read_seen(folder: Path) -> Seen:
    """Return who was seen; nobody, if that was not written down or cannot be read."""
    try:
        document = json.loads((folder / SEEN).read_text(encoding="utf-8"))
        at = {int(number): float(seconds) for number, seconds in document["at"].items()}
        return Seen(frozenset(map(int, document["here"])), at)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return Seen()


class Looks:
    """Writes down the looks of a coordinator.

    Args:
        folder: of the server.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._seen, self._written = folder, read_seen(folder), -EVERY

    def note(self, here: Collection[int], now: float, steady: float) -> None:
        """Remember who is connected now; on a full disk, at least that somebody looked.

        Args:
            here: numbers of the members.
            now: Unix seconds.
            steady: seconds of a clock that nobody sets.
        """
        path = self._folder / LOOKED
        with explained(path):
            path.touch()
            os.utime(path, (now, now))
        same = frozenset(here) == self._seen.here
        self._seen = Seen(frozenset(here), {**self._seen.at, **dict.fromkeys(here, now)})
        if same and steady < self._written + EVERY:
            return
        document = {"here": sorted(here), "at": {str(number): at for number, at in sorted(self._seen.at.items())}}
        with contextlib.suppress(FedquitError):
            write_json(self._folder / SEEN, document)
        self._written = steady
