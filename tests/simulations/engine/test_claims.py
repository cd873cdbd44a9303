"""Work sharing: each client is taken once, a round that is over takes nobody, no round waits for a worker that died."""

import os
import sys
from concurrent.futures import ProcessPoolExecutor

import pytest

from fedquit.errors import FedquitError
from fedquit.processes.worker_context import worker_context
from fedquit.simulations.engine import claims as claims_module
from fedquit.simulations.engine.claims import Claims, claimed, share
from fedquit.simulations.engine.worker_pool import OURS, WorkerPool


def take_all(number: int) -> list[int]:
    return [client for own in claimed(number, 3, 1000) for client in own]


def test_workers_take_every_client_once() -> None:
    context = worker_context([])
    claims = Claims(context)
    with ProcessPoolExecutor(2, mp_context=context, initializer=share, initargs=(claims,)) as pool:
        for _ in range(2):
            number = claims.begin()
            taken = [client for part in pool.map(take_all, [number, number]) for client in part]
            assert sorted(taken) == list(range(1000))
            assert not claims.are_left(1000)


def test_a_round_that_is_over_takes_nobody_of_the_next() -> None:
    claims = Claims(worker_context([]))
    old = claims.begin()
    assert claims.take(old, 4, 10) == range(4)
    new = claims.begin()
    assert not claims.take(old, 4, 10)
    assert claims.take(new, 8, 10) == range(8)
    assert claims.take(new, 8, 10) == range(8, 10)
    assert not claims.take(new, 8, 10)


def test_a_worker_that_died_with_the_counter_does_not_stop_the_next_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims_module, "LOCK_TIMEOUT", 0.01)
    pool = WorkerPool(2, OURS)
    held = worker_context([]).Process(target=_take_and_die, args=(pool.claims,))
    held.start()
    held.join()
    try:
        with pytest.raises(FedquitError, match="worker process died"):
            pool.begin_round()
        assert pool.claims.are_left(1), "it does not wait for the counter"
    finally:
        pool.close()


def _take_and_die(claims: Claims) -> None:
    claims._shared.get_lock().acquire()
    os._exit(1)


def test_a_pool_that_is_closed_leaves_the_interpreter_as_it_was() -> None:
    before = sys.getswitchinterval()
    WorkerPool(1, OURS).close()
    assert sys.getswitchinterval() == before
