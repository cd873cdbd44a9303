"""The worker processes of the in-process engine, which start from a clean process and end with their parent."""

import contextlib
import ctypes
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from fedquit.errors import FedquitError
from fedquit.files import temporary_folder
from fedquit.processes.chosen_device import choice, choose
from fedquit.processes.worker_context import METHOD, worker_context
from fedquit.simulations.engine.claims import Claims, share
from fedquit.simulations.engine.parcels import Parcel, Served, serve

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

OURS = "fedquit.client.app:app"
"""The ClientApp whose clients can be trained without messages."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
SWITCH = 0.0005
"""Seconds after which a thread lets another have the interpreter: those that carry parcels must not wait for long."""
WIDEST = 2**20
"""Bytes of a pipe: as many as Linux lets everybody have."""
KEPT, LARGEST_BLOCK = 64 * 2**20, 32 * 2**20


class WorkerPool:
    """Processes that serve parcels of messages.

    Args:
        workers: how many.
        client_app: where to import the ClientApp from.

    Attributes:
        ahead: parcels that are under way at most: each worker has one and finds another when it is done.
        claims: of the clients of a round that is summed where it is made.
        folder: for files that workers read; it ends with the pool.
    """

    def __init__(self, workers: int, client_app: str) -> None:
        self.workers, self.ahead = workers, 2 * workers + 1
        self._app = client_app
        self._temporary = temporary_folder()
        self.folder = Path(self._temporary.name)
        self._switch = sys.getswitchinterval()
        sys.setswitchinterval(min(SWITCH, self._switch))
        context = _context(client_app)
        self.claims = Claims(context)
        self._executor = ProcessPoolExecutor(
            workers, mp_context=context, initializer=_begin, initargs=(self.claims, *choice())
        )
        _widen(self._executor)

    def submit(self, parcel: Parcel) -> Future[list[Served]]:
        """Hand a parcel to the next worker that is free.

        Raises:
            FedquitError: a worker has died.
        """
        return self._submit(serve, self._app, parcel)

    def begin_round(self) -> int:
        """Begin a round whose clients the workers claim, and return its number.

        Raises:
            FedquitError: a worker has died.
        """
        try:
            return self.claims.begin()
        except TimeoutError as error:
            raise died() from error

    def _submit(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        try:
            return self._executor.submit(function, *args, **kwargs)
        except BrokenProcessPool as error:
            raise died() from error

    def results(self, function: Callable[[T], R], parcels: Iterable[T], deadline: float | None) -> Iterator[R]:
        """Yield what `function`, called in the workers, returns for each parcel; each worker is handed one at a time.

        Raises:
            TimeoutError: the clock passed `deadline`.
            FedquitError: a worker has died.
        """
        return self.done(lambda parcel: self._submit(function, parcel), parcels, deadline, self.workers)

    def done(
        self, submit: Callable[[T], Future[R]], parcels: Iterable[T], deadline: float | None, ahead: int | None = None
    ) -> Iterator[R]:
        """Return the results of parcels, of which only `ahead` are under way: those that nobody takes do not pile up.

        The first are handed out at once, before any result is taken.

        Raises:
            TimeoutError: the clock passed `deadline`.
            FedquitError: a worker has died.
        """
        left = iter(parcels)
        under_way = {submit(parcel) for parcel in itertools.islice(left, ahead or self.ahead)}
        return self._results(under_way, (submit(parcel) for parcel in left), deadline)

    @staticmethod
    def _results(under_way: set[Future[R]], left: Iterator[Future[R]], deadline: float | None) -> Iterator[R]:
        """Yield the results of what is under way, and of what is left."""
        while under_way:
            seconds = None if deadline is None else max(0.0, deadline - time.monotonic())
            done, under_way = wait(under_way, seconds, FIRST_COMPLETED)
            if not done:
                raise TimeoutError(f"{len(under_way)} parcels were not served in time")
            under_way |= set(itertools.islice(left, len(done)))
            while done:
                yield result_of(done.pop())

    def close(self) -> None:
        """End the workers, without waiting for what they are at."""
        processes = list((self._executor._processes or {}).values())
        self._executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        sys.setswitchinterval(self._switch)
        self._temporary.cleanup()


def _context(client_app: str) -> Any:
    """Return what starts workers from a clean process that has the ClientApp: to fork one with threads can hang it.

    That process begins at once, so that it imports PyTorch while this one reads the data.
    """
    summing = ["fedquit.simulations.engine.summing"] if client_app == OURS else []
    context = worker_context([client_app.partition(":")[0], *summing])
    if METHOD == "forkserver":
        from multiprocessing import forkserver  # Windows has none

        forkserver.ensure_running()
    return context


def _widen(executor: ProcessPoolExecutor) -> None:
    """Have the pipe of results hold a sum of a small model at once, where it is Linux's and may be so wide.

    Otherwise a worker waits for the main process to read it, 64 KiB at a time.
    """
    if sys.platform == "linux":
        import fcntl

        with contextlib.suppress(OSError, AttributeError):  # it has no public name, and may lose the one it has
            pipe = executor._result_queue._writer  # type: ignore[attr-defined]
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, WIDEST)


def _begin(claims: Claims, device: str, precision: str) -> None:
    """Begin a worker of a pool."""
    share(claims)
    begin_worker(device, precision)


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


def result_of(future: Future[R]) -> R:
    """Return the result of a parcel.

    Raises:
        FedquitError: a worker has died.
    """
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise died() from error


def died() -> FedquitError:
    """Return the error for a pool that has lost a worker."""
    return FedquitError("a worker process died, perhaps for lack of memory; continue with --resume and fewer --workers")
