"""The worker processes of the in-process engine, which start from a clean process and end with their parent.

Each has a pipe for its tasks and one for its outcomes, and gets its next task when it has finished the last. Its first
task is written at once if the pipe holds it, else when the worker has reported that it is ready: so nobody waits for a
process that is starting, or that died before it read anything. A pool of the standard library hands tasks from thread
to thread on the way, which takes as long as small models train.
"""

import atexit
import contextlib
import itertools
import os
import pickle
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Generic, TypeVar

from fedquit.errors import FedquitError
from fedquit.files import temporary_folder
from fedquit.processes.chosen_device import choice
from fedquit.processes.worker_context import begin_clean_process, worker_context
from fedquit.simulations.engine.claims import Claims, died
from fedquit.simulations.engine.worker_process import Outcome, work

R = TypeVar("R")
T = TypeVar("T")

OURS = "fedquit.client.app:app"
"""The ClientApp whose clients can be trained without messages."""
WIDEST, ALL_PIPES = 2**20, 2**24
"""Bytes of a pipe, as many as Linux lets everybody have, and of all pipes, a quarter of what it lets one user have."""
SAFE = 2**12
"""Bytes that a pipe holds on every system."""
FILES_OF_A_START = 16
"""At least as many as a process opens to start another."""
WINDOWS_WAITS_FOR = 60
"""Handles that are waited for at once: Windows allows fewer than 64; each worker has two, its pipe and its process."""


@dataclass(eq=False, slots=True)
class Call(Generic[R]):
    """A parcel that a worker carries out, or will.

    Attributes:
        task: what it is sent: the function and the parcel.
        is_over: whether nothing more comes of it.
    """

    task: bytes = b""
    is_over: bool = False
    _came: deque[R] = field(default_factory=deque)
    _failed: Outcome | None = None
    _is_dropped: bool = False

    @classmethod
    def done(cls, result: R) -> "Call[R]":
        """Return one that has this result."""
        return cls(is_over=True, _came=deque([result]))

    def add(self, outcome: Outcome) -> None:
        """Take note of an outcome."""
        self.is_over = outcome.is_last
        if not self._is_dropped:
            self._came.extend(outcome.results)
            self._failed = outcome if outcome.error is not None else None

    def take(self) -> Iterator[R]:
        """Yield the results that are there, once each; raise what its function raised, with a note of the place."""
        while self._came:
            yield self._came.popleft()
        if self._failed is not None and self._failed.error is not None:
            self._failed.error.add_note(f"In a worker: {self._failed.trace}")
            raise self._failed.error

    def drop(self) -> None:
        """Keep no result: nobody will take it."""
        self._is_dropped = True
        self._came.clear()


class WorkerPool:
    """Processes that carry out parcels.

    Args:
        workers: how many at most; each starts when it is needed.
        client_app: where to import the ClientApp from.

    Attributes:
        claims: of the clients of a round that is summed where it is made.
        folder: for files that workers read; it ends with the pool.
    """

    def __init__(self, workers: int, client_app: str) -> None:
        self.workers = min(workers, most_workers(sys.platform))
        self._temporary = temporary_folder()
        self.folder = Path(self._temporary.name)
        self._context = _context(client_app)
        self.claims = Claims(self._context)
        self._begun: list[_Worker] = []
        self._waiting: deque[Call[Any]] = deque()
        self._is_broken = self._is_closed = False
        self._at_exit = partial(_close, weakref.ref(self))
        atexit.register(self._at_exit)  # it runs before `multiprocessing` waits for workers, who wait for tasks

    def submit(self, function: Callable[[T], R], parcel: T) -> Call[R]:
        """Have `function(parcel)` called by the next worker that is free.

        Raises:
            FedquitError: a worker has died.
        """
        return self._submit(_packed(function, parcel))

    def results(self, function: Callable[[T], R], parcels: Iterable[T], deadline: float | None) -> Iterator[R]:
        """Return the results of `function`, called by the workers with each parcel, as they come; see `results_of`.

        A parcel is handed out when a worker is free for it, so that results that nobody takes do not pile up. The first
        are handed out at once, before any result is taken.

        Raises:
            FedquitError: a worker has died.
        """
        tasks = (_packed(function, parcel) for parcel in parcels)
        calls: list[Call[R]] = [self._submit(task) for task in itertools.islice(tasks, self.workers)]
        return self.results_of(calls, deadline, tasks)

    def submit_to(self, workers: int, function: Callable[[T], Iterator[R]], parcel: T) -> list[Call[R]]:
        """Have `function(parcel)` called by several workers, who share the work among themselves.

        Raises:
            FedquitError: a worker has died.
        """
        task = _packed(function, parcel)
        return [self._submit(task) for _ in range(workers)]

    def results_of(self, calls: list[Call[R]], deadline: float | None, left: Iterable[bytes] = ()) -> Iterator[R]:
        """Yield the results of calls, and of the tasks that are `left`, as they come.

        It ends when the clock passes `deadline`, as the replies of Flower's grids do; `calls` then holds those that are
        unfinished. It raises no TimeoutError for that: one that is raised here comes from the function itself.

        Raises:
            FedquitError: a worker has died.
        """
        following = iter(left)
        try:
            while calls:
                for call in tuple(calls):
                    if call.is_over:
                        calls.remove(call)
                        calls += [self._submit(task) for task in itertools.islice(following, 1)]
                    yield from call.take()
                if calls and not self.collect(None if deadline is None else max(0.0, deadline - time.monotonic())):
                    return
        finally:
            self.drop(calls)

    def drop(self, calls: Iterable[Call[Any]]) -> None:
        """Discard calls: those that have not begun never will, and what comes of the others is thrown away."""
        for call in calls:
            call.drop()
            with contextlib.suppress(ValueError):
                self._waiting.remove(call)

    def collect(self, seconds: float | None) -> bool:
        """Take in the outcomes that are there, or come within some seconds; return whether there were any.

        Raises:
            FedquitError: a worker has died.
        """
        self._check()
        at_work = {worker.outcomes: worker for worker in self._begun if worker.call is not None or not worker.is_ready}
        ready = wait([*at_work, *(worker.process.sentinel for worker in self._begun)], seconds)
        heard = [at_work[end] for end in ready if end in at_work]
        with self._alive():
            if ready and not heard:
                raise EOFError("a worker has ended")
            for worker in heard:
                worker.take()
        self._deal()
        return bool(heard)

    def _submit(self, task: bytes) -> Call[Any]:
        self._check()
        call = Call[Any](task)
        self._waiting.append(call)
        self._deal()
        return call

    def _check(self) -> None:
        if self._is_closed:
            raise FedquitError("the worker processes have ended; begin another run")
        if self._is_broken:
            raise died()

    def _deal(self) -> None:
        """Hand tasks to workers that have none, and start workers for those that are left."""
        idle = [worker for worker in self._begun if worker.call is None]
        idle.sort(key=lambda worker: not worker.is_ready)
        for call in tuple(self._waiting):
            if not idle and len(self._begun) == self.workers:
                return
            worker = idle.pop(0) if idle else self._started()
            if worker.takes(call.task):
                self._waiting.remove(call)
                with self._alive():
                    worker.begin(call)

    def _started(self) -> "_Worker":
        """Start a worker.

        Raises:
            FedquitError: the system lets this user have no more processes or files.
        """
        number = len(self._begun) + 1
        try:
            worker = _Worker.made(self._context, self.claims, min(WIDEST, ALL_PIPES // (2 * self.workers)))
            self._begun.append(worker)  # so that it ends with the pool, wherever this is interrupted
            worker.start()
            return worker
        except OSError as error:
            self._is_broken = True
            what = f"cannot start worker process {number} of {self.workers}: {error.strerror or error}"
            raise FedquitError(f"{what}; continue with --resume and fewer --workers") from error
        except EOFError as error:  # what workers are forked from has ended
            self._is_broken = True
            raise died() from error
        except BaseException:  # it may not have started
            self._is_broken = True
            raise

    @contextlib.contextmanager
    def _alive(self) -> Iterator[None]:
        """Turn the error of a closed pipe into one that says how to continue; after any error the pool is not used."""
        try:
            yield
        except (EOFError, OSError) as error:
            self._is_broken = True
            raise died() from error
        except BaseException:  # half of a message may be left in a pipe
            self._is_broken = True
            raise

    def close(self) -> None:
        """End the workers, without waiting for what they are at."""
        self._is_closed = True
        while self._begun:
            self._begun[-1].end()
            self._begun.pop()
        self._temporary.cleanup()
        atexit.unregister(self._at_exit)  # last: if this is interrupted, it is called again at exit


@dataclass(eq=False, slots=True)
class _Worker:
    """A worker process.

    Attributes:
        process: the process.
        tasks: our end of the pipe that it reads.
        outcomes: our end of the pipe that it writes.
        its_ends: of the pipes, until it has them.
        holds: bytes that can be written to it before it reads.
        call: what it is at, or will be once it is ready.
        is_ready: whether it has reported that it reads tasks.
    """

    process: Any
    tasks: Connection
    outcomes: Connection
    its_ends: tuple[Connection, Connection]
    holds: int
    call: Call[Any] | None = None
    is_ready: bool = False

    @classmethod
    def made(cls, context: Any, claims: Claims, width: int) -> "_Worker":
        """Make one, with pipes of `width` bytes."""
        (to_read, tasks), (outcomes, to_write) = context.Pipe(duplex=False), context.Pipe(duplex=False)
        holds = min([_widened(end, width) for end in (tasks, to_write)])
        process = context.Process(target=work, args=(to_read, to_write, claims, *choice()))
        return cls(process, tasks, outcomes, (to_read, to_write), holds)

    def start(self) -> None:
        """Start it; it alone then has its ends: when it ends, so do the pipes."""
        with self.its_ends[0], self.its_ends[1]:
            _check_room(self.tasks)
            self.process.start()

    def takes(self, task: bytes) -> bool:
        """Say whether a task can be written without waiting for it to start, which it might never do."""
        return self.is_ready or len(task) <= self.holds

    def begin(self, call: Call[Any]) -> None:
        """Hand it a task."""
        self.call = call
        self.tasks.send_bytes(call.task)
        call.task = b""

    def take(self) -> None:
        """Take in its next outcome."""
        outcome: Outcome = pickle.loads(self.outcomes.recv_bytes())  # noqa: S301 - written by a process that we began
        if not self.is_ready:
            self.is_ready = True
            return
        if self.call is not None:
            self.call.add(outcome)
        if outcome.is_last:
            self.call = None

    def end(self) -> None:
        """Kill it, even if it is stopped or ignores SIGTERM: at exit this process waits for it."""
        if self.process.pid is not None:
            self.process.kill()
        self.tasks.close()
        self.outcomes.close()


def most_workers(platform: str) -> int:
    """Return the largest number of workers that a system can wait for at once.

    >>> most_workers("win32")
    30
    """
    return WINDOWS_WAITS_FOR // 2 if platform == "win32" else sys.maxsize


def _packed(function: Callable[[T], Any], parcel: T) -> bytes:
    return pickle.dumps((function, parcel), pickle.HIGHEST_PROTOCOL)


def _context(client_app: str) -> Any:
    """Return what starts workers from a clean process that has the ClientApp: to fork one with threads can hang it.

    That process begins at once, so that it imports PyTorch while this one reads the data.
    """
    summing = ["fedquit.simulations.engine.summing"] if client_app == OURS else []
    context = worker_context([client_app.partition(":")[0], *summing])
    begin_clean_process()
    return context


def _check_room(pipe: Connection) -> None:
    """Raise an OSError if this process may not open the files that it takes to start a worker.

    The process that starts workers (the fork server) does not survive it if that happens midway.
    """
    if sys.platform != "win32":  # there, handles are no files
        with contextlib.ExitStack() as taken:
            for _ in range(FILES_OF_A_START):
                taken.callback(os.close, os.dup(pipe.fileno()))


def _widened(pipe: Connection, width: int) -> int:
    """Have a pipe of Linux, which holds 64 KiB, hold a small model at once; return how many bytes it holds at least."""
    if sys.platform != "linux":
        return SAFE
    import fcntl

    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, max(width, 2**16))
    return int(fcntl.fcntl(pipe.fileno(), fcntl.F_GETPIPE_SZ)) - SAFE


def _close(pool: "weakref.ref[WorkerPool]") -> None:
    """Close a pool that nobody closed, if it is still there."""
    there = pool()
    if there is not None:
        there.close()
