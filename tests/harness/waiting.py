"""Waits that follow progress, not seconds: on a busy machine everything takes longer, but it moves.

A wait ends when what is waited for is there. It fails when nothing moved for `STILL` seconds, or after `MOST` in all.
"""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

STILL, MOST = 300.0, 3000.0
ALWAYS_MOVING = ("state.db", "superlink.log", "access.log")
"""Beginnings of the names of files that change while nothing happens: devices poll, and the server looks."""
Found = TypeVar("Found")


def until(
    found: Callable[[], Found],
    what: str = "progress",
    *,
    moving: Callable[[], object] = lambda: None,
    still: float = STILL,
    most: float = MOST,
    every: float = 0.05,
) -> Found:
    """Wait until `found` returns something true, and return it.

    Args:
        found: looks for it.
        what: is waited for, in the error.
        moving: returns something that changes as long as there is progress, such as `files(folder)`.
        still: seconds without a change after which it is given up.
        most: seconds after which it is given up although something moves.
        every: seconds between two looks.
    """
    begun = changed = time.monotonic()
    seen = moving()
    while not (value := found()):
        now, at = time.monotonic(), moving()
        if at != seen:
            seen, changed = at, now
        assert now - changed < still, f"no {what}, and nothing moved for {now - changed:.0f} s"
        assert now - begun < most, f"no {what} within {now - begun:.0f} s"
        time.sleep(every)
    return value


def files(*folders: Path, leave_out: Iterable[str] = ALWAYS_MOVING) -> dict[Path, tuple[int, int]]:
    """Return size and time of change of every file below, but for those whose names begin as told."""
    found, unmoving = dict[Path, tuple[int, int]](), tuple(leave_out)
    for folder in folders:
        for path in folder.rglob("*"):
            try:
                told = path.stat()
            except OSError:
                continue  # it is gone meanwhile
            if path.is_file() and not path.name.startswith(unmoving):
                found[path] = (told.st_size, told.st_mtime_ns)
    return found
