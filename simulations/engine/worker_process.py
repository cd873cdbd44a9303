"""A worker process of the in-process engine: it carries out what comes through a pipe, and ends with its parent."""

import contextlib
import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from fedquit.processes.chosen_device import choose
from fedquit.simulations.engine.claims import Claims, share

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT, LARGEST_BLOCK = 64 * 2**20, 32 * 2**20


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a worker has made of a parcel.

    Attributes:
        results: of its function.
        is_last: whether there is no more to come.
        error: what it raised instead.
        trace: where it raised it.
    """

    results: tuple[Any, ...] = ()
    is_last: bool = True
    error: BaseException | None = None
    trace: str = ""


def work(tasks: Connection, outcomes: Connection, claims: Claims, device: str, precision: str) -> None:
    """Carry out the functions and parcels of `tasks`, until their other end is closed."""
    share(claims)
    begin_worker(device, precision)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent has ended
        _send(outcomes, Outcome())  # reports that it is ready
        while True:
            _carry_out(tasks.recv_bytes(), outcomes)


def _carry_out(task: bytes, outcomes: Connection) -> None:
    """Carry out one task: a function, and the parcel to call it with.

    What an iterator yields is sent as it comes. What a generator returns, if it is not None, is its last result: it is
    sent in the message that ends the task, so that nobody waits for that message alone.
    """
    try:
        function, parcel = pickle.loads(task)  # noqa: S301 - written by the process that began this one
        found = function(parcel)
        if not isinstance(found, Iterator):
            return _send(outcomes, Outcome((found,)))
        while True:
            try:
                result = next(found)
            except StopIteration as end:
                return _send(outcomes, Outcome(() if end.value is None else (end.value,)))
            _send(outcomes, Outcome((result,), is_last=False))
    except (Exception, SystemExit) as error:
        return _send(outcomes, Outcome(error=_that_travels(error), trace=traceback.format_exc()))


def _send(outcomes: Connection, outcome: Outcome) -> None:
    outcomes.send_bytes(pickle.dumps(outcome, pickle.HIGHEST_PROTOCOL))


def _that_travels(error: BaseException) -> BaseException:
    """Return an error, or one that says the same if it cannot be pickled or, which only the reader would find, read."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - written here
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def begin_worker(device: str, precision: str) -> None:
    """Compute where the parent does, leave Ctrl-C to it, and end when it does, however it ends."""
    import torch

    choose(device, precision)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    keep_freed_memory()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def keep_freed_memory() -> None:
    """Have the C library keep up to `KEPT` bytes that were freed, where it is glibc.

    Otherwise it returns the memory of each large tensor to the system, and new pages take as long as training.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is not None and hasattr(library, "gnu_get_libc_version"):
        library.mallopt(M_TRIM_THRESHOLD, KEPT)
        library.mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK)


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(0)
