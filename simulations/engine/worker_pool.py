"""The worker processes of the in-process engine, which start from a clean process and end with their parent."""

import multiprocessing
import os
import signal
import tempfile
import threading
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from pathlib import Path

from fedquit.errors import FedquitError
from fedquit.processes.chosen_device import choice, choose
from fedquit.processes.worker_context import METHOD, worker_context
from fedquit.simulations.engine.parcels import Answer, Parcel, answer


class WorkerPool:
    """Processes that answer parcels of messages.

    Args:
        workers: how many.
        client_app: where to import the ClientApp from.

    Attributes:
        ahead: parcels that are under way at most: each worker has one and finds another when it is done.
        folder: for files that workers read; it ends with the pool.
    """

    def __init__(self, workers: int, client_app: str) -> None:
        self.workers, self.ahead = workers, 2 * workers + 1
        self._app = client_app
        self._temporary = tempfile.TemporaryDirectory(prefix="fedquit-", ignore_cleanup_errors=True)
        self.folder = Path(self._temporary.name)
        self._executor = _executor(workers, client_app)

    def submit(self, parcel: Parcel) -> Future[list[Answer]]:
        """Hand a parcel to the next worker that is free.

        Raises:
            FedquitError: a worker has died.
        """
        try:
            return self._executor.submit(answer, self._app, parcel)
        except BrokenProcessPool as error:
            raise died() from error

    def close(self) -> None:
        """End the workers, without waiting for what they are at."""
        processes = list((self._executor._processes or {}).values())
        self._executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        self._temporary.cleanup()


def _executor(workers: int, client_app: str) -> ProcessPoolExecutor:
    """Return what starts workers from a clean process that has the ClientApp: to fork one with threads can hang it.

    That process begins at once, so that it imports PyTorch while this one reads the data.
    """
    context = worker_context([client_app.partition(":")[0]])
    if METHOD == "forkserver":
        from multiprocessing import forkserver  # Windows has none

        forkserver.ensure_running()
    return ProcessPoolExecutor(workers, mp_context=context, initializer=begin_worker, initargs=choice())


def begin_worker(device: str, precision: str) -> None:
    """Compute where the parent does, leave Ctrl-C to it, and end when it does, however it ends."""
    import torch

    choose(device, precision)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(0)


def died() -> FedquitError:
    """Return the error for a pool that has lost a worker."""
    return FedquitError("a worker process died, perhaps for lack of memory; continue with --resume and fewer --workers")
