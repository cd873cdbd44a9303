"""A round whose replies are summed in the workers: the tasks that go there, and what comes back."""

import itertools
import time
from collections.abc import Iterator, Sequence

from fedquit.client.training.sgd import deterministic
from fedquit.errors import FedquitError
from fedquit.simulations.engine.summing import Summing, SumParcel, SumPart, SumTask, sum_parcel
from fedquit.simulations.engine.worker_pool import WorkerPool
from fedquit.strategies.grid.summed_replies import SummedReply
from fedquit.unlearning.tensors.exact_mean import ExactMean

LARGEST = 2 * 2**20
"""Bytes of a model above which its sums, four times as large, take longer to travel than messages save."""

ToTrain = Sequence[tuple[int, int, int]]


def summed_here(task: SumTask, asked: ToTrain, mean: ExactMean, stack: int) -> Iterator[SummedReply]:
    """Carry out a round in this process."""
    summing = Summing(task, mean)
    for start in range(0, len(asked), stack):
        with deterministic(0):  # on one thread, as in a worker
            replies = summing.replies(asked[start : start + stack])
        yield from replies


def summed_in_pool(
    pool: WorkerPool, task: SumTask, asked: ToTrain, mean: ExactMean, stack: int, timeout: float
) -> Iterator[SummedReply]:
    """Begin a round in a pool's workers, and return its replies.

    Raises:
        FedquitError: `timeout` seconds have passed, or a worker process died.
    """
    deadline, everybody = time.monotonic() + timeout, tuple(asked)
    parcel = SumParcel(task, everybody, pool.begin_round(), stack)
    parcels = itertools.takewhile(lambda _: pool.claims.are_left(len(everybody)), itertools.repeat(parcel))
    return _merged(pool.results(sum_parcel, parcels, deadline), mean, timeout)


def _merged(parts: Iterator[SumPart], mean: ExactMean, timeout: float) -> Iterator[SummedReply]:
    try:
        for part in parts:
            mean.merge(part.mean)
            yield from part.replies
    except TimeoutError:
        raise FedquitError(f"clients were not trained within {timeout:.0f} s; continue with --resume") from None
