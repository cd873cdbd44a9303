"""How worker processes start: from a clean process, and without running the caller's script in them.

Python runs the script of the parent again in each process that it starts, so that a script without
`if __name__ == "__main__":` would start again in every worker. Our workers do not need it: what they call is in
modules.
"""

import multiprocessing
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
_Context: Any = type(multiprocessing.get_context(METHOD))
_Process: Any = _Context.Process
_STARTING = threading.Lock()


class Worker(_Process):  # type: ignore[misc] # its class depends on the system
    """A process that does not run the caller's script."""

    def start(self) -> None:
        """Start it, from a main module that says of no file that it is the script.

        Workers start one after the other. A thread that meanwhile pickles what the script itself defines does not find
        it: only what is in modules can be pickled then.
        """
        with _STARTING, uninterrupted():
            main = sys.modules["__main__"]
            sys.modules["__main__"] = ModuleType("__main__")
            try:
                super().start()
            finally:
                sys.modules["__main__"] = main


class WorkerContext(_Context):  # type: ignore[misc] # its class depends on the system
    """A context of `multiprocessing` whose processes are `Worker`s."""

    Process = Worker


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Have Ctrl-C reach this process alone, and none that is started meanwhile: those end with their parent.

    A process that is still importing would print where it was. Windows cannot hold a signal back.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # when it begins, it lets signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin_clean_process() -> None:
    """Begin the process that workers are forked from, where there is one: it imports while this one does other work."""
    if METHOD == "forkserver":
        from multiprocessing import forkserver  # Windows has none

        with uninterrupted():
            forkserver.ensure_running()


def worker_context(preload: Iterable[str]) -> Any:
    """Return how to start workers: from a clean process (to fork one with threads can hang it).

    Args:
        preload: modules that the clean process imports once, where there is such a process.
    """
    context = WorkerContext()
    if METHOD == "forkserver":
        context.set_forkserver_preload(list(preload))
    return context
