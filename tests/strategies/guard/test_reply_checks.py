"""A reply that is not what was asked for is refused with its reason, and nothing but `BadReplyError` comes out."""

import io
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from fedquit.errors import BadReplyError
from fedquit.strategies.flower_internals import become_server_task
from fedquit.strategies.grid.array_record import record_of
from fedquit.strategies.guard.reply_checks import MAX_EXAMPLES, checked_arrays, checked_metrics

GOOD: dict[str, NDArray[Any]] = {"w": np.array([1.0, 2.0, 3.0], np.float32), "counter": np.array(7, np.int64)}
EXPECTED = record_of(GOOD)


def reply(content: RecordDict | Error) -> Message:
    become_server_task(1)
    question = Message(RecordDict(), 1000, "train")
    return Message(content, reply_to=question)


def with_arrays(arrays: dict[str, Array]) -> Message:
    return reply(RecordDict({"arrays": ArrayRecord(arrays)}))


def changed(**arrays: NDArray[Any]) -> Message:
    return with_arrays({name: Array(array) for name, array in (GOOD | arrays).items()})


def with_bytes(data: bytes, **claimed: Any) -> Message:
    claims: dict[str, Any] = {"dtype": "float32", "shape": (3,), "stype": "numpy.ndarray"} | claimed
    return with_arrays({**EXPECTED, "w": Array(data=data, **claims)})


def with_metrics(metrics: dict[str, Any]) -> Message:
    return reply(RecordDict({"metrics": MetricRecord(metrics)}))


def refusal(message: Message, check: Callable[[Message], object] | None = None) -> str:
    with pytest.raises(BadReplyError) as caught:
        (check or (lambda asked: checked_arrays(asked, EXPECTED)))(message)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def npy(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def npz(array: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.savez(file, w=array)
    return file.getvalue()


def npy_header(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue()


def test_a_good_reply_is_let_through_bit_for_bit() -> None:
    got = checked_arrays(changed(), EXPECTED)
    assert {name: (a.tobytes(), a.dtype, a.shape) for name, a in got.items()} == {
        name: (a.tobytes(), a.dtype, a.shape) for name, a in GOOD.items()
    }


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_refuses_the_model(bad: float) -> None:
    assert "'w' holds NaN or infinity" in refusal(changed(w=np.array([1.0, bad, 3.0], np.float32)))


@pytest.mark.parametrize(
    "array",
    [
        np.ones((1,), np.float32),
        np.ones((), np.float32),
        np.ones((1, 3), np.float32),
        np.ones((0,), np.float32),
        np.ones(3, np.float64),
        np.ones(3, np.float16),
        np.ones(3, np.int32),
        np.ones(3, ">f4"),
        np.ones(3, np.complex64),
        np.ones(3, bool),
    ],
    ids=lambda array: f"{array.dtype.str}{array.shape}",
)
def test_an_array_of_another_shape_or_dtype_is_refused_and_never_broadcast(array: NDArray[Any]) -> None:
    assert "'w'" in refusal(changed(w=array))


def test_missing_and_extra_arrays_are_named() -> None:
    assert "missing counter" in refusal(with_arrays({"w": EXPECTED["w"]}))
    assert "unexpected more" in refusal(changed(more=np.ones(1)))


def test_a_reply_needs_one_array_record_and_one_metric_record() -> None:
    two = reply(
        RecordDict({"one": EXPECTED, "two": EXPECTED, "m": MetricRecord({"a": 1}), "n": MetricRecord({"a": 1})})
    )
    none = reply(RecordDict())
    assert refusal(two).startswith("2 array records")
    assert refusal(two, checked_metrics).startswith("2 metric records")
    assert refusal(none).startswith("0 array records")
    assert refusal(none, checked_metrics).startswith("0 metric records")


def test_an_error_reply_is_refused_with_its_text() -> None:
    assert refusal(reply(Error(2, "MemoryError: no room"))) == "MemoryError: no room"
    assert "5" in refusal(reply(Error(5)))


def test_an_error_text_of_many_lines_is_logged_in_one() -> None:
    assert "no room" in refusal(reply(Error(2, "Traceback:\n  line 1\nMemoryError: no room")))


@pytest.mark.parametrize(
    "message",
    [
        lambda: with_bytes(b""),
        lambda: with_bytes(b"garbage"),
        lambda: with_bytes(npy(GOOD["w"])[:-1]),
        lambda: with_bytes(npy(GOOD["w"]), stype="torch.tensor"),
        lambda: with_bytes(npz(GOOD["w"])),
        lambda: with_bytes(npy_header((10**13,))),
        lambda: with_bytes(npy(np.ones(1, np.float32))),
        lambda: with_bytes(npy(np.ones(3, np.float64))),
        lambda: with_bytes(npy(np.array(["a", "b", "c"]))),
    ],
    ids=["empty", "no npy", "cut off", "other serialisation", "npz", "petabytes", "one for three", "float64", "text"],
)
def test_bytes_that_are_not_what_they_claim_are_refused(message: Callable[[], Message]) -> None:
    assert "'w'" in refusal(message())


def test_what_a_reply_claims_is_looked_at_before_memory_is_taken_for_it() -> None:
    message = with_bytes(npy_header((2**28,)))  # 1 GiB, which this machine would give
    tracemalloc.start()
    try:
        refusal(message)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_pickle_is_refused_and_never_run(tmp_path: Any) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return type(tmp_path).touch, (tmp_path / "ran",)

    bomb = np.array([Bomb(), 1, 2], dtype=object)
    assert "'w'" in refusal(with_bytes(npy(bomb)))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("claims", [{"shape": (4,)}, {"dtype": "float64"}], ids=str)
def test_metadata_that_lie_about_good_bytes_are_refused(claims: dict[str, Any]) -> None:
    assert "'w'" in refusal(with_bytes(npy(GOOD["w"]), **claims))


@pytest.mark.parametrize("count", [-9, 0, float("inf"), float("nan"), 1e12, 10**12, 3.0, MAX_EXAMPLES + 1, [3]])
def test_a_number_of_samples_that_cannot_be_is_refused(count: Any) -> None:
    assert "num-examples" in refusal(with_metrics({"num-examples": count}), checked_metrics)


def test_true_is_not_a_number_of_samples() -> None:
    with pytest.raises(TypeError, match="bool"):  # Flower's records hold no booleans: the guard never sees one
        with_metrics({"num-examples": True})


def test_a_reply_without_its_number_of_samples_is_refused() -> None:
    assert "num-examples is None" in refusal(with_metrics({"loss": 1.0}), checked_metrics)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1.0], 10**400], ids=["nan", "inf", "list", "huge"])
def test_a_metric_that_is_not_finite_is_refused(value: Any) -> None:
    assert "'loss'" in refusal(with_metrics({"num-examples": 1, "loss": value}), checked_metrics)


def test_good_metrics_are_let_through() -> None:
    assert checked_metrics(with_metrics({"num-examples": 12, "loss": 0.5, "steps": 3})) == (
        12,
        {"loss": 0.5, "steps": 3.0},
    )
    assert checked_metrics(with_metrics({"num-examples": MAX_EXAMPLES}))[0] == MAX_EXAMPLES


@pytest.mark.parametrize(
    ("raised", "shown"),
    [
        ("<class 'fedquit.errors.InputError'>:<'device 'north' has no samples: it left'>", "device 'north' has no"),
        ("<class 'ZeroDivisionError'>:<'division by zero'>", "ZeroDivisionError: division by zero"),
        ("<class 'numpy.linalg.LinAlgError'>:<'singular'>", "LinAlgError: singular"),
        ("no samples of 'fedquit.errors.InputError'", "no samples of 'fedquit.errors.InputError'"),
    ],
)
def test_an_error_is_shown_without_the_marks_of_its_class(raised: str, shown: str) -> None:
    assert refusal(reply(Error(0, raised))).startswith(shown)
