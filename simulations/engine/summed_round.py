"""A round whose replies are summed where they are made: in this process, in workers, or in both."""

import contextlib
import time
from collections.abc import Iterator, Sequence

from fedquit.client.training.sgd import deterministic
from fedquit.errors import FedquitError
from fedquit.simulations.engine.summing import SLICE, Summing, SumParcel, SumPart, SumTask, sum_parcel
from fedquit.simulations.engine.worker_pool import Call, WorkerPool
from fedquit.strategies.grid.summed_replies import SummedReply
from fedquit.unlearning.tensors.exact_mean import ExactMean

LARGEST = 2 * 2**20
"""Bytes of a model above which its sums, four times as large, take longer to travel than messages save."""

ToTrain = Sequence[tuple[int, int, int]]


def summed_here(task: SumTask, asked: ToTrain, mean: ExactMean, stack: int) -> Iterator[SummedReply]:
    """Carry out a round in this process."""
    summing = Summing(task, mean)
    for start in range(0, len(asked), stack):
        part = _trained(summing, asked[start : start + stack])
        part.add_to(mean)
        yield from part.replies


def _trained(summing: Summing, asked: ToTrain) -> SumPart:
    """Return what is made of some clients in this process."""
    with deterministic(0):  # on one thread, as in a worker
        summing.train(asked)
    return summing.taken()


def summed_in_pool(
    pool: WorkerPool, task: SumTask, asked: ToTrain, mean: ExactMean, stack: int, timeout: float
) -> Iterator[SummedReply]:
    """Begin a round in a pool's workers, and return its replies.

    Raises:
        FedquitError: `timeout` seconds have passed, or a worker process died.
    """
    deadline = time.monotonic() + timeout
    parcel = SumParcel(task, tuple(asked), pool.claims.begin(len(asked)), stack)
    calls = pool.submit_to(pool.workers - 1 if task.stacked else pool.workers, sum_parcel, parcel)
    return _merged(_parts(pool, parcel, calls, deadline), calls, mean, timeout)


def _parts(pool: WorkerPool, parcel: SumParcel, calls: list[Call[SumPart]], deadline: float) -> Iterator[SumPart]:
    """Yield the parts of a round; if it is given up, nobody takes more of its clients."""
    try:
        if parcel.task.stacked:
            yield from _beside(pool, parcel, calls)
        yield from pool.results_of(calls, deadline)
    finally:
        pool.drop(calls)
        if calls:
            with contextlib.suppress(FedquitError):
                pool.claims.begin(0)


def _beside(pool: WorkerPool, parcel: SumParcel, calls: list[Call[SumPart]]) -> Iterator[SumPart]:
    """Train stacks in this process beside all workers but one; if they take long, that one takes over.

    Small stacks are trained in the time that it takes to wake another process and receive its results. This process
    takes clients from the end, who have the fewest samples, because it also has other work.
    """
    summing, began = Summing(parcel.task), time.monotonic()
    for own in pool.claims.taken(parcel.round, parcel.stack, last=True):
        yield _trained(summing, parcel.asked[own.start : own.stop])
        pool.collect(0.0)
        for call in calls:
            yield from call.take()
        if time.monotonic() - began > SLICE and pool.claims.are_left():
            calls += pool.submit_to(1, sum_parcel, parcel)
            return


def _merged(
    parts: Iterator[SumPart], left: list[Call[SumPart]], mean: ExactMean, timeout: float
) -> Iterator[SummedReply]:
    """Add parts to a mean, and yield their replies.

    Raises:
        FedquitError: calls are left after the last part: the time is up.
    """
    for part in parts:
        part.add_to(mean)
        yield from part.replies
    if left:
        raise FedquitError(f"clients were not trained within {timeout:.0f} s; continue with --resume")
