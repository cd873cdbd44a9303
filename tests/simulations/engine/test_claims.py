"""Work sharing: each client is taken once, a round that is over takes nobody, no round waits for a worker that died."""

import os
from concurrent.futures import ProcessPoolExecutor

import pytest

from fedquit.errors import FedquitError
from fedquit.processes.worker_context import worker_context
from fedquit.simulations.engine import claims as claims_module
from fedquit.simulations.engine.claims import Claims, ours, share
from fedquit.simulations.engine.worker_pool import OURS, WorkerPool


def take_all(number: int) -> list[int]:
    last = os.getpid() % 2 > 0
    return [client for own in ours().taken(number, 3, last=last) for client in own]


def test_workers_take_every_client_once() -> None:
    context = worker_context([])
    claims = Claims(context)
    with ProcessPoolExecutor(2, mp_context=context, initializer=share, initargs=(claims,)) as pool:
        for _ in range(2):
            number = claims.begin(1000)
            taken = [client for part in pool.map(take_all, [number, number]) for client in part]
            assert sorted(taken) == list(range(1000))
            assert not claims.are_left()


def test_a_round_that_is_over_takes_nobody_of_the_next() -> None:
    claims = Claims(worker_context([]))
    old = claims.begin(10)
    assert claims.take(old, 4) == range(4)
    new = claims.begin(10)
    assert not claims.take(old, 4)
    assert not claims.take(old, 4, last=True)
    assert claims.take(new, 8) == range(8)
    assert claims.take(new, 8) == range(8, 10)
    assert not claims.take(new, 8)


@pytest.mark.parametrize("order", [[False] * 4, [True] * 4, [True, False, True, False], [False, True, True, False]])
def test_who_are_taken_together_does_not_depend_on_who_takes(order: list[bool]) -> None:
    claims = Claims(worker_context([]))
    number = claims.begin(10)
    taken = [claims.take(number, 3, last=last) for last in order]
    assert sorted(taken, key=lambda own: own.start) == [range(3), range(3, 6), range(6, 9), range(9, 10)]
    assert not claims.take(number, 3)
    assert not claims.take(number, 3, last=True)


def test_a_worker_that_died_with_the_counter_does_not_stop_the_next_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims_module, "LOCK_TIMEOUT", 0.01)
    pool = WorkerPool(2, OURS)
    pool.claims.begin(3)
    held = worker_context([]).Process(target=_take_and_die, args=(pool.claims,))
    held.start()
    held.join()
    try:
        with pytest.raises(FedquitError, match="worker process died"):
            pool.claims.begin(1)
        with pytest.raises(FedquitError, match="worker process died"):
            pool.claims.take(1, 1)
        assert pool.claims.are_left(), "it does not wait for the counters"
    finally:
        pool.close()


def _take_and_die(claims: Claims) -> None:
    claims._shared.get_lock().acquire()
    os._exit(1)
