"""Stop a piece of work at each of its changes to the files below a folder: every place where a crash may leave it.

It is killed there, or its user stops it with Ctrl-C, which has it clean up; and that may come between any two lines.
"""

import itertools
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, NoReturn

CHANGES = {"os.rename", "os.mkdir", "os.rmdir", "os.link", "os.remove", "os.truncate"}
"""Audit events of Python's that change a folder; `open` does so unless it only reads."""
INTERRUPTED = 77

Work = Callable[[], object]


def kills_at_writes(work: Work, root: Path, prepare: Work) -> Iterator[int]:
    """Yield after each kill: `work` was begun in a process of its own and killed before its 1st, 2nd, ... change.

    Args:
        work: what is killed.
        root: changes below this folder count.
        prepare: called before each try; makes everything as it was.
    """
    return _ends(work, lambda count: sys.addaudithook(_changes(root, count)), _kill, prepare, -signal.SIGKILL)


def interrupts_at_writes(work: Work, root: Path, prepare: Work) -> Iterator[int]:
    """As `kills_at_writes`, with a KeyboardInterrupt raised there; the process ends after what `work` does then."""
    return _ends(work, lambda count: sys.addaudithook(_changes(root, count)), _interrupt, prepare, INTERRUPTED)


def interrupts_at_lines(
    work: Work, modules: tuple[ModuleType, ...], begins: Callable[[], bool], prepare: Work
) -> Iterator[int]:
    """As `interrupts_at_writes`, before each line of `modules`, and each return, from when `begins` is true."""
    files = {module.__file__ for module in modules}
    return _ends(work, lambda count: sys.settrace(_lines(files, begins, count)), _interrupt, prepare, INTERRUPTED)


def _ends(
    work: Work, watch: Callable[[Work], object], stop: Callable[[], NoReturn], prepare: Work, ended: int
) -> Iterator[int]:
    for number in itertools.count(1):
        prepare()
        process = multiprocessing.get_context("fork").Process(target=_stopped, args=(work, watch, stop, number))
        process.start()
        process.join(120)
        if process.exitcode == 0:
            return
        assert process.exitcode == ended, f"at {number}: exit code {process.exitcode}"
        yield number


def _stopped(work: Work, watch: Callable[[Work], object], stop: Callable[[], NoReturn], number: int) -> None:
    left = number

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            stop()

    watch(count)
    try:
        work()
    except KeyboardInterrupt:
        assert left <= 0
    os._exit(0 if left > 0 else INTERRUPTED)


def _kill() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def _interrupt() -> NoReturn:
    raise KeyboardInterrupt


def _changes(root: Path, count: Work) -> Callable[[str, tuple[Any, ...]], None]:
    """Return an audit hook that counts the changes below a folder."""

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if _is_change(event, arguments, str(root)):
            count()

    return watch


def _is_change(event: str, arguments: tuple[Any, ...], root: str) -> bool:
    if event == "open":
        path, mode, flags = arguments
        writes = any(letter in mode for letter in "wax+") if mode else bool(flags & (os.O_CREAT | os.O_WRONLY))
        return writes and str(path).startswith(root)
    return event in CHANGES and any(str(argument).startswith(root) for argument in arguments[:2])


def _lines(files: set[str | None], begins: Callable[[], bool], count: Work) -> Callable[[FrameType, str, Any], Any]:
    """Return a trace function that counts lines and returns in some files."""

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in files:
            return None
        if event in {"line", "return"} and begins():
            count()
        return trace

    return trace
