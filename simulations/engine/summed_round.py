"""A round whose replies are summed in the workers: the tasks that go there, and what comes back."""

import pickle
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fedquit.client.training.sgd import deterministic
from fedquit.errors import FedquitError
from fedquit.files import temporary_folder
from fedquit.simulations.engine.parcels import explained_room, parcel_sizes
from fedquit.simulations.engine.shared_sums import SharedSums
from fedquit.simulations.engine.summing import Summing, SumParcel, SumTask, sum_parcel
from fedquit.simulations.engine.worker_pool import WorkerPool
from fedquit.strategies.grid.summed_replies import SummedReply
from fedquit.unlearning.tensors.exact_mean import ExactMean

LARGEST = 2 * 2**20
"""Bytes of a model above which sums, in a file for each worker, take longer than messages."""

ToTrain = Sequence[tuple[int, int, int]]


def summed_here(task: SumTask, asked: ToTrain, mean: ExactMean, stack: int) -> Iterator[SummedReply]:
    """Carry out a round in this process."""
    with temporary_folder() as folder:
        with explained_room(Path(folder)):
            summing = Summing(task, Path(folder) / "sums")
        for start in range(0, len(asked), stack):
            with deterministic(0):  # on one thread, as in a worker
                replies = summing.replies(asked[start : start + stack])
            yield from replies
        summing.sums.merge_into(mean)


def summed_in_pool(
    pool: WorkerPool, task: SumTask, asked: ToTrain, mean: ExactMean, stack: int, timeout: float
) -> Iterator[SummedReply]:
    """Carry out a round in a pool's workers.

    Raises:
        FedquitError: `timeout` seconds have passed, or a worker process died.
        FullDiskError: there is no room for the sums.
    """
    deadline, left = time.monotonic() + timeout, list(asked)
    with _task_file(task, pool.folder) as path:
        parcels = (
            SumParcel(str(path), tuple(left[start : start + size]))
            for start, size in _dealt(len(left), pool.workers, stack)
        )
        with explained_room(pool.folder):
            try:
                for replies in pool.results(sum_parcel, parcels, deadline):
                    yield from replies
            except TimeoutError:
                raise FedquitError(f"clients were not trained within {timeout:.0f} s; continue with --resume") from None
        for file in sorted(pool.folder.glob(f"{path.name}.*")):
            SharedSums(file, task.plain.arrays, new=False).merge_into(mean)


def _dealt(asked: int, workers: int, stack: int) -> Iterator[tuple[int, int]]:
    """Yield the first client and the number of clients of each parcel."""
    start = 0
    for size in parcel_sizes(asked, workers, asked, stack):
        yield start, size
        start += size


@contextmanager
def _task_file(task: SumTask, folder: Path) -> Iterator[Path]:
    """Yield a file with the task, and remove it and all that workers put beside it."""
    with explained_room(folder), tempfile.NamedTemporaryFile(dir=folder, prefix="sums-", delete=False) as file:
        pickle.dump(task, file, pickle.HIGHEST_PROTOCOL)
        path = Path(file.name)
    try:
        yield path
    finally:
        for each in [path, *folder.glob(f"{path.name}.*")]:
            each.unlink(missing_ok=True)
