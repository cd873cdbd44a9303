"""The mean of models: exact enough, and the same bits in whatever order they come."""

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedquit.unlearning.tensors.exact_mean import ExactMean

Contribution = tuple[list[float], int]

SIZE = 3
VALUES = st.one_of(
    st.floats(-1e6, 1e6, width=32, allow_subnormal=True),
    st.floats(-1.0, 1.0, width=32, allow_subnormal=True),
    st.sampled_from([0.0, -0.0, *(float(np.float32(x)) for x in (1e-45, -1e-40, 1e-30, -1e-16, 1e-8, 0.1, -3.3, 1e6))]),
)
CONTRIBUTIONS = st.lists(
    st.tuples(st.lists(VALUES, min_size=SIZE, max_size=SIZE), st.integers(1, 50_000)), min_size=1, max_size=8
)


def mean_of(contributions: list[Contribution], dtype: Any = np.float32) -> NDArray[Any]:
    mean = ExactMean()
    for values, weight in contributions:
        mean.add({"w": np.array(values, dtype=dtype)}, weight)
    return mean.result()["w"]


@settings(max_examples=150)
@given(contributions=CONTRIBUTIONS, data=st.data())
def test_any_order_of_arrival_gives_the_same_bits(contributions: list[Contribution], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(contributions))
    assert mean_of(contributions).tobytes() == mean_of(shuffled).tobytes()


@settings(max_examples=100)
@given(
    contributions=st.lists(
        st.tuples(st.lists(st.floats(-6e10, 6e10), min_size=SIZE, max_size=SIZE), st.integers(1, 3)),
        min_size=2,
        max_size=4,
    )
)
def test_any_order_gives_the_same_bits_up_to_the_largest_values_let_in(contributions: list[Contribution]) -> None:
    try:
        results = {mean_of(list(order), np.float64).tobytes() for order in itertools.permutations(contributions)}
    except OverflowError:
        return
    assert len(results) == 1


def test_halves_of_the_grid_in_large_values_do_not_depend_on_the_order() -> None:
    half = 2.0**-15
    values = [-(1.5e11 + half), -(1.6e11 + half), -1.7e11]
    try:
        results = {mean_of([([v], 1) for v in order], np.float64).tobytes() for order in itertools.permutations(values)}
    except OverflowError:
        return
    assert len(results) == 1


@settings(max_examples=150)
@given(contributions=CONTRIBUTIONS)
def test_the_mean_is_the_exact_rational_mean_rounded(contributions: list[Contribution]) -> None:
    total = sum(weight for _, weight in contributions)
    for index, got in enumerate(mean_of(contributions)):
        exact = sum((Fraction(values[index]) * weight for values, weight in contributions), Fraction()) / total
        ulp = float(np.spacing(np.abs(np.float32(float(exact)))))
        error: Fraction = abs(Fraction(float(got)) - exact)
        assert error <= Fraction(max(ulp, 1e-15))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
def test_the_mean_of_one_is_that_one_bit_for_bit(dtype: Any) -> None:
    array = np.array([0.1, -0.0, 6e-8, 3e4]).astype(dtype)
    mean = ExactMean()
    mean.add({"w": array}, 12_345)
    assert mean.result()["w"].tobytes() == array.tobytes()
    assert mean.result()["w"].dtype == array.dtype


def test_counters_stay_integers_and_are_rounded() -> None:
    got = mean_of([([1, 10, -7], 1), ([2, 10, -8], 2)], np.int64)
    assert got.dtype == np.int64
    assert got.tolist() == [2, 10, -8]


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_the_dtype_is_kept(dtype: Any) -> None:
    got = mean_of([([0.1, 2.0, 3.0], 1), ([0.3, 2.0, 5.0], 1)], dtype)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, [0.2, 2.0, 4.0], rtol=float(np.finfo(dtype).eps), atol=1e-15)


def test_one_too_large_value_leaves_nothing_of_its_model_behind() -> None:
    good = {"a": np.array([0.1], np.float32), "b": np.array([0.7], np.float32)}
    other = {"a": np.array([0.3], np.float32), "b": np.array([0.9], np.float32)}
    without, attacked = ExactMean(), ExactMean()
    for mean in (without, attacked):
        mean.add(good, 3)
    with pytest.raises(OverflowError, match="'b'"):
        attacked.add({"a": np.array([5.0], np.float32), "b": np.array([1e30], np.float32)}, 2)
    for mean in (without, attacked):
        mean.add(other, 4)
    assert attacked.weight == without.weight == 7
    assert all(attacked.result()[name].tobytes() == without.result()[name].tobytes() for name in "ab")


def test_a_refused_first_model_is_as_if_never_sent() -> None:
    mean = ExactMean()
    with pytest.raises(OverflowError):
        mean.add({"w": np.array([1e30], np.float32)}, 1)
    mean.add({"w": np.array([0.1], np.float32)}, 3)
    assert mean.result()["w"].tobytes() == np.array([0.1], np.float32).tobytes()


@pytest.mark.parametrize("smallest", [np.iinfo(np.int64).min, np.iinfo(np.int64).min + 1])
def test_the_smallest_integer_is_too_large_as_well(smallest: int) -> None:
    mean = ExactMean()
    with pytest.raises(OverflowError):
        mean.add({"counter": np.array(smallest)}, 1)


def test_who_sends_large_values_first_does_not_shut_the_others_out() -> None:
    mean = ExactMean()
    try:
        mean.add({"w": np.array([5.4e11])}, 1)
    except OverflowError:
        return
    mean.add({"w": np.array([1e6])}, 100_000)


def test_arrays_without_elements_and_without_axes_keep_their_shape() -> None:
    mean = ExactMean()
    for value in (1, 4):
        mean.add({"none": np.zeros((0, 3), np.float32), "scalar": np.array(value, np.int64)}, 1)
    got = mean.result()
    assert got["none"].shape == (0, 3)
    assert got["scalar"].shape == ()
    assert got["scalar"].dtype == np.int64
    assert int(got["scalar"]) == 2


def test_what_was_added_is_not_changed() -> None:
    array = np.array([0.1, 0.2], np.float32)
    mean = ExactMean()
    for _ in range(3):
        mean.add({"w": array}, 2)
    assert array.tolist() == np.array([0.1, 0.2], np.float32).tolist()


def test_arrays_that_come_in_another_order_are_the_same_model() -> None:
    one, other = (
        {"a": np.array([1.0, 2.0]), "b": np.array([[5.0]])},
        {"b": np.array([[7.0]]), "a": np.array([3.0, 4.0])},
    )
    mean, merged, part = ExactMean(), ExactMean(), ExactMean()
    mean.add(one, 1)
    mean.add(other, 1)
    merged.add(one, 1)
    part.add(other, 1)
    merged.merge(part)
    for result in (mean.result(), merged.result()):
        assert list(result) == ["a", "b"]
        assert result["a"].tolist() == [2.0, 3.0]
        assert result["b"].tolist() == [[6.0]]


def test_a_first_model_whose_memory_is_used_again_stays_the_mean_of_one() -> None:
    mean, model = ExactMean(), {"w": np.ones(3, dtype=np.float32)}
    mean.add(model, 2)
    model["w"].fill(np.nan)
    assert mean.result()["w"].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "other", [{"w": np.ones(4)}, {"w": np.ones(2)}, {"v": np.ones(3)}, {"w": np.ones(3), "v": np.ones(1)}]
)
def test_arrays_of_another_form_are_an_error_and_add_nothing(other: dict[str, NDArray[Any]]) -> None:
    mean = ExactMean()
    mean.add({"w": np.full(3, 5.0)}, 1)
    mean.add({"w": np.full(3, 7.0)}, 1)
    with pytest.raises(ValueError, match=r"averaged|added before"):
        mean.add(other, 7)
    assert mean.weight == 2
    assert mean.result()["w"].tolist() == [6.0, 6.0, 6.0]
