"""Kill a piece of work at each of its changes to the files below a folder: every place where a crash may leave it."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CHANGES = {"os.rename", "os.mkdir", "os.rmdir", "os.link", "os.remove", "os.truncate"}
"""Audit events of Python's that change a folder; `open` does so unless it only reads."""


def kills_at_writes(work: Callable[[], object], root: Path, prepare: Callable[[], object]) -> Iterator[int]:
    """Yield after each kill: `work` was begun in a process of its own and killed before its 1st, 2nd, ... change.

    Args:
        work: what is killed.
        root: changes below this folder count.
        prepare: called before each try; makes everything as it was.
    """
    number = 1
    while True:
        prepare()
        process = multiprocessing.get_context("fork").Process(target=_killed, args=(work, root, number))
        process.start()
        process.join(120)
        if process.exitcode == 0:
            return
        assert process.exitcode == -signal.SIGKILL, f"at change {number}: exit code {process.exitcode}"
        yield number
        number += 1


def _killed(work: Callable[[], object], root: Path, number: int) -> None:
    left = number

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if _changes(event, arguments, str(root)):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    work()
    os._exit(0)


def _changes(event: str, arguments: tuple[Any, ...], root: str) -> bool:
    if event == "open":
        path, mode, flags = arguments
        writes = any(letter in mode for letter in "wax+") if mode else bool(flags & (os.O_CREAT | os.O_WRONLY))
        return writes and str(path).startswith(root)
    return event in CHANGES and any(str(argument).startswith(root) for argument in arguments[:2])
