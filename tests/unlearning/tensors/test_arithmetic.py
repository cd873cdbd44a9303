import itertools
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedquit.errors import FedquitError
from fedquit.unlearning.session import ClientReply, weighted_mean
from fedquit.unlearning.tensors.arithmetic import StateMean
from fedquit.unlearning.tensors.exact_mean import ExactMean

VALUES = st.lists(st.tuples(st.floats(-1e10, 1e10, width=32), st.integers(1, 60000)), min_size=2, max_size=5)


@settings(max_examples=60)
@given(VALUES)
def test_the_order_of_arrival_changes_nothing_and_the_mean_is_right(pairs: list[tuple[float, int]]) -> None:
    answers = [ClientReply(i, {"w": torch.tensor([v])}, n, {}) for i, (v, n) in enumerate(pairs)]
    results = {weighted_mean(order)["w"].item() for order in itertools.islice(itertools.permutations(answers), 12)}
    assert len(results) == 1
    exact = sum(Fraction(v) * n for v, n in pairs) / sum(n for _, n in pairs)
    assert results.pop() == pytest.approx(float(exact), rel=1e-6, abs=1e-10)


@settings(max_examples=40)
@given(VALUES)
def test_a_method_averages_to_the_same_bits_as_training(pairs: list[tuple[float, int]]) -> None:
    here, there = StateMean(), ExactMean()
    for value, weight in pairs:
        state = {"w": torch.tensor([value])}
        here.add(state, weight)
        there.add({"w": state["w"].numpy()}, weight)
    assert here.result()["w"].numpy().tobytes() == there.result()["w"].tobytes()


def test_the_mean_of_one_is_that_one_bit_for_bit() -> None:
    state = {"w": torch.tensor([1e-30, 0.1]), "n": torch.tensor(7)}
    assert all(torch.equal(value, state[name]) for name, value in weighted_mean([ClientReply(0, state, 9, {})]).items())


def test_counters_are_rounded_and_stay_whole() -> None:
    states = [{"n": torch.tensor(3)}, {"n": torch.tensor(4)}]
    mean = weighted_mean(ClientReply(i, state, 1 + i, {}) for i, state in enumerate(states))
    assert mean["n"].dtype == torch.int64
    assert mean["n"].item() == 4


def test_what_cannot_be_averaged_is_refused() -> None:
    with pytest.raises(FedquitError, match="no client answered"):
        weighted_mean([])
    with pytest.raises(FedquitError, match=r"no usable answer came from client\(s\) 1, 2"):
        weighted_mean([ClientReply(0, {"w": torch.ones(1)}, 1, {})], required=[0, 1, 2])
    for weight, value, message in ((0, 1.0, "weight is 0"), (1, float("nan"), "'w' holds"), (1, 1e300, "'w' holds")):
        with pytest.raises(FedquitError, match=message):
            StateMean().add({"w": torch.tensor([value], dtype=torch.float64)}, weight)
    mean = StateMean()
    mean.add({"w": torch.ones(1)}, 1)
    with pytest.raises(FedquitError, match="same entries"):
        mean.add({"v": torch.ones(1)}, 1)
