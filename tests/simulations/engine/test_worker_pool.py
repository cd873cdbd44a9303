"""The pool of workers: results as they come, errors with their place, and no process that outlives its parent."""

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedquit.errors import FedquitError
from fedquit.processes.worker_context import Worker
from fedquit.simulations.engine import worker_pool
from fedquit.simulations.engine.worker_pool import Call, WorkerPool
from fedquit.simulations.engine.worker_process import Outcome, work
from tests.harness.waiting import until

HERE = "test_worker_pool"


def double(number: int) -> int:
    return 2 * number


def fail(number: int) -> int:
    raise LookupError(f"no {number}")


def fail_with_a_timeout_error(number: int) -> int:
    raise TimeoutError(f"the data server did not send {number}")


def process_of(_: int) -> int:
    return os.getpid()


def larger_than_any_pipe(number: int) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    return np.full(2**19, float(number))


def wait_for(path: str) -> int:
    Path(path + ".begun").write_text(str(os.getpid()))
    until(Path(path).exists, "sign to go on")
    return os.getpid()


def count_to(number: int) -> Iterator[int]:
    yield from range(number)


def count_and_return(number: int) -> Generator[int, None, int | None]:
    yield from range(number)
    return number or None


def count_and_fail(number: int) -> Iterator[int]:
    yield number
    raise LookupError("after the first")


def leave_unsaid(_: int) -> object:
    return lambda: None  # what cannot be pickled


class UnreadableError(Exception):
    """One that is pickled, and cannot be read."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} of {two}")


def fail_unreadably(_: int) -> int:
    raise UnreadableError(1, 2)


def fail_unsaid(_: int) -> int:
    raise ValueError("said", lambda: None)


class EmptyError(Exception):
    """One that is false."""

    def __len__(self) -> int:
        return 0


def fail_emptily(_: int) -> int:
    raise EmptyError


def die(_: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    yield from begun_pool()


@pytest.fixture
def doomed() -> Iterator[WorkerPool]:
    """A pool for one test alone."""
    yield from begun_pool()


def begun_pool() -> Iterator[WorkerPool]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        made = WorkerPool(2, f"{HERE}:app")
        yield made
        made.close()


def test_every_parcel_has_its_result_and_workers_are_processes(pool: WorkerPool) -> None:
    assert sorted(pool.results(double, range(9), None)) == list(range(0, 18, 2))
    processes = set(pool.results(process_of, range(9), None))
    assert len(processes) <= 2
    assert os.getpid() not in processes


def test_results_larger_than_a_pipe_come_whole(pool: WorkerPool) -> None:
    found = [(len(result), result[0]) for result in pool.results(larger_than_any_pipe, range(5), None)]
    assert sorted(found) == [(2**19, float(number)) for number in range(5)]


def test_what_a_function_raises_is_raised_here_with_its_place(pool: WorkerPool) -> None:
    with pytest.raises(LookupError, match="no 7") as failed:
        list(pool.results(fail, [7], None))
    assert "in fail" in str(failed.value.__notes__)
    assert list(pool.results(double, [4], None)) == [8], "the worker goes on"


def test_a_timeout_error_of_a_function_is_not_taken_for_the_deadline(pool: WorkerPool) -> None:
    for deadline in (None, time.monotonic() + 600):
        with pytest.raises(TimeoutError, match="the data server did not send 7") as failed:
            list(pool.results(fail_with_a_timeout_error, [7], deadline))
        assert "in fail_with_a_timeout_error" in str(failed.value.__notes__)


def test_a_result_that_cannot_travel_is_an_error_here(pool: WorkerPool) -> None:
    with pytest.raises(Exception, match="pickle"):
        list(pool.results(leave_unsaid, [1], None))
    assert list(pool.results(double, [4], None)) == [8]


@pytest.mark.parametrize(
    ("function", "kind", "says"),
    [
        (fail_unreadably, RuntimeError, "UnreadableError: 1 of 2"),
        (fail_unsaid, RuntimeError, "said"),
        (fail_emptily, EmptyError, ""),
    ],
)
def test_an_error_of_any_kind_is_an_error_here(
    pool: WorkerPool, function: Callable[[int], int], kind: type[Exception], says: str
) -> None:
    for _ in range(3):  # more often than there are workers
        with pytest.raises(kind, match=says or None):
            list(pool.results(function, [1], None))
    assert sorted(pool.results(double, range(4), None)) == [0, 2, 4, 6]


def test_what_a_generator_returns_is_its_last_result_in_one_message(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard, add = list[Outcome](), Call[int].add

    def overheard(call: Call[int], outcome: Outcome) -> None:
        heard.append(outcome)
        add(call, outcome)

    monkeypatch.setattr(Call, "add", overheard)
    found: Iterator[object] = pool.results(count_and_return, [2], None)
    assert list(found) == [0, 1, 2]
    assert [outcome.is_last for outcome in heard] == [False, False, True]
    assert list(pool.results(count_and_return, [0], None)) == [], "None is no result"


def test_what_several_workers_yield_comes_as_it_is_made(pool: WorkerPool) -> None:
    assert sorted(pool.results_of(pool.submit_to(2, count_to, 3), None)) == [0, 0, 1, 1, 2, 2]
    came = list[int]()
    with pytest.raises(LookupError, match="after the first"):
        came.extend(pool.results_of(pool.submit_to(1, count_and_fail, 5), None))
    assert came == [5]


def test_a_result_that_is_there_is_known_without_waiting(pool: WorkerPool) -> None:
    call = pool.submit(double, 21)
    until(lambda: pool.collect(0.0) or call.is_over, "answer")
    assert list(call.take()) == [42]
    assert list(call.take()) == []
    assert not pool.collect(0.0)


def test_time_that_is_up_leaves_a_pool_that_works(doomed: WorkerPool, tmp_path: Path) -> None:
    go = str(tmp_path / "go")
    calls = [doomed.submit(wait_for, go) for _ in range(3)]
    assert list(doomed.results_of(calls, time.monotonic() + 1.0)) == []
    assert len(calls) == 3, "it says which are left"
    assert list(doomed.results(wait_for, [go] * 5, time.monotonic() + 1.0)) == []
    (tmp_path / "go").touch()
    assert sorted(doomed.results(double, range(5), None)) == [0, 2, 4, 6, 8], "and nothing of what was given up"


def test_calls_that_are_given_up_never_begin(doomed: WorkerPool, tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("a", "b", "c")]
    calls = [doomed.submit(wait_for, path) for path in paths]
    begun = [Path(path + ".begun") for path in paths]
    until(lambda: begun[0].exists() and begun[1].exists(), "two at work")
    doomed.drop(calls)
    for path in paths:
        Path(path).touch()
    assert sorted(doomed.results(double, range(4), None)) == [0, 2, 4, 6]
    assert not begun[2].exists()
    assert [list(call.take()) for call in calls] == [[], [], []]


def test_a_worker_that_dies_is_an_error_now_and_later(doomed: WorkerPool) -> None:
    with pytest.raises(FedquitError, match="worker process died"):
        list(doomed.results(die, [1], None))
    with pytest.raises(FedquitError, match="worker process died"):
        doomed.submit(double, 1)


def test_an_idle_worker_that_dies_is_noticed(doomed: WorkerPool) -> None:
    (process,) = doomed.results(process_of, [1], None)
    os.kill(process, signal.SIGKILL)
    with pytest.raises(FedquitError, match="worker process died"):
        list(doomed.results(double, itertools.repeat(1), time.monotonic() + 60))


def test_a_pool_that_is_closed_says_so_and_does_not_wait(doomed: WorkerPool, tmp_path: Path) -> None:
    results = doomed.results(wait_for, [str(tmp_path / "never")] * 2, None)
    doomed.close()
    with pytest.raises(FedquitError, match="have ended"):
        next(results)


def test_after_half_a_message_no_worker_is_used(doomed: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(worker_pool._Worker, "take", cut)
    with pytest.raises(KeyboardInterrupt):
        list(doomed.results(double, [1], None))
    with pytest.raises(FedquitError, match="worker process died"):
        doomed.submit(double, 1)


def test_a_pool_that_nobody_closes_keeps_no_process_waiting(tmp_path: Path) -> None:
    done = run_script(
        "from fedquit.simulations.engine.worker_pool import WorkerPool\n"
        f"from {HERE} import process_of\n"
        "if __name__ == '__main__':\n"
        f"    pool = WorkerPool(2, '{HERE}:app')\n"
        "    print(*pool.results(process_of, range(4), None))\n",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    workers = {int(word) for word in done.stdout.split()}
    assert workers
    until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), "end of the workers")


def never_there(*_: object) -> None:
    """Stand in for a worker that ends before it reads anything."""
    os._exit(1)


def there_with_others(folder: Path, *given: Any) -> None:
    """Stand in for a worker whose start takes until another has begun to start too."""
    (folder / str(os.getpid())).touch()
    until(lambda: len(list(folder.iterdir())) > 1, "another worker that starts")
    work(*given)


def length(data: bytes) -> int:
    return len(data)


@pytest.mark.timeout(60)
def test_a_worker_that_dies_before_it_reads_stops_nobody(doomed: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = list[int]()
    pipe = doomed._context.Pipe

    def kept_open(**named: Any) -> Any:
        ends = pipe(**named)
        kept.extend(os.dup(end.fileno()) for end in ends)  # as on Windows, until the child has taken them
        return ends

    monkeypatch.setattr(worker_pool, "work", never_there)
    monkeypatch.setattr(doomed._context, "Pipe", kept_open, raising=False)
    try:
        with pytest.raises(FedquitError, match="worker process died"):
            list(doomed.results(length, [bytes(2**23)], None))
    finally:
        for descriptor in kept:
            os.close(descriptor)


@pytest.mark.timeout(60)
def test_workers_start_at_once_however_large_their_tasks_are(
    doomed: WorkerPool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(worker_pool, "work", partial(there_with_others, tmp_path))
    assert list(doomed.results(length, [bytes(2**23)] * 2, None)) == [2**23] * 2


def test_a_close_that_is_interrupted_is_completed_at_exit(
    doomed: WorkerPool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    doomed.submit(wait_for, str(tmp_path / "never"))
    begun = tmp_path / "never.begun"
    until(lambda: doomed.collect(0.0) or (begun.exists() and begun.read_text()), "a worker at work")
    until(lambda: begun.exists() and begun.read_text(), "its number")
    end = worker_pool._Worker.end

    def interrupted(_: object) -> None:
        monkeypatch.setattr(worker_pool._Worker, "end", end)
        raise KeyboardInterrupt

    monkeypatch.setattr(worker_pool._Worker, "end", interrupted)
    with pytest.raises(KeyboardInterrupt):
        doomed.close()
    doomed._at_exit()
    until(lambda: not Path(f"/proc/{begun.read_text()}").exists(), "end of the worker")


def test_a_worker_whose_start_was_interrupted_ends_with_the_pool(
    doomed: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, found = Worker.start, list[int]()

    def interrupted(process: Any) -> None:
        start(process)
        found.append(process.pid)
        raise KeyboardInterrupt

    monkeypatch.setattr(Worker, "start", interrupted)
    monkeypatch.setattr(worker_pool, "work", hear_nothing_of)
    with pytest.raises(KeyboardInterrupt):
        doomed.submit(double, 1)
    doomed.close()
    until(lambda: not Path(f"/proc/{found[0]}").exists(), "end of the worker", still=30)


@pytest.mark.parametrize("error", [EOFError, ConnectionRefusedError])
def test_a_clean_process_that_died_is_one_error(
    error: type[Exception], doomed: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(_: object) -> None:
        raise error  # as `multiprocessing` does, whose EOFError a command would take for Ctrl-C

    monkeypatch.setattr(Worker, "start", gone)
    for _ in range(2):
        with pytest.raises(FedquitError, match="--resume and fewer --workers"):
            doomed.submit(double, 1)


LIMITED = """
import resource
from fedquit.errors import FedquitError
from fedquit.simulations.engine.worker_pool import WorkerPool
from test_worker_pool import double
if __name__ == "__main__":
    pool = WorkerPool(40, "test_worker_pool:app")
    resource.setrlimit(resource.RLIMIT_NOFILE, (90, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    try:
        list(pool.results(double, range(40), None))
    except FedquitError as error:
        print(error)
"""

DEAF = """
import pathlib, sys
from fedquit.simulations.engine.worker_pool import WorkerPool
from test_worker_pool import hear_nothing, until
if __name__ == "__main__":
    begun = pathlib.Path(sys.argv[0]).with_name("begun")
    pool = WorkerPool(1, "test_worker_pool:app")
    pool.submit(hear_nothing, str(begun))
    until(lambda: begun.exists() and begun.read_text(), "worker")
    print(begun.read_text())
"""


def hear_nothing_of(*_: object) -> None:
    """Stand in for a worker that never reads."""
    time.sleep(600)


def hear_nothing(path: str) -> None:
    """Work for ever, as code that handles signals itself may."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(path).write_text(str(os.getpid()))
    while True:
        time.sleep(1)


def run_script(text: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a script that finds this module and the package."""
    script = folder / "script.py"
    script.write_text(f"import sys\nsys.path[:0] = {[str(Path(__file__).parents[n]) for n in (0, 3)]!r}\n{text}")
    return subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)


def test_more_workers_than_the_system_allows_give_an_error_of_one_line(tmp_path: Path) -> None:
    done = run_script(LIMITED, tmp_path)
    assert re.fullmatch(
        r"cannot start worker process \d+ of 40: Too many open files; .* fewer --workers\n", done.stdout
    )
    assert not done.stderr


@pytest.mark.timeout(60)
def test_a_worker_that_ignores_signals_keeps_nobody_waiting(tmp_path: Path) -> None:
    done = run_script(DEAF, tmp_path)
    assert not done.stderr
    until(lambda: not Path(f"/proc/{int(done.stdout)}").exists(), "end of the worker")


def test_a_call_that_was_done_without_a_worker_has_its_result() -> None:
    assert list(Call.done(3).take()) == [3]
