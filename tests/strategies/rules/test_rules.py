"""Each strategy against its formula, against Flower's own, and against bad replies."""

import logging
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from numpy.typing import NDArray
from safetensors.numpy import load, save

from fedquit.errors import InputError
from fedquit.strategies.rules import PRIVACY, Rule, is_mean, make_rule
from tests.strategies.rules.rule_rounds import (
    SETTINGS,
    Arrays,
    Replies,
    any_rule,
    carry_out,
    opened,
    record,
    replies_to,
    stacked,
    started,
)

FLOWERS: dict[str, Any] = {cls.lower(): getattr(flower, cls) for cls in flower.__all__ if cls.lower() in SETTINGS}


def rounds(rule: Rule, number: int = 3) -> list[Arrays]:
    """Return the models of some rounds; what is kept goes through a file between them, as in a run."""
    models, state = [started()], None
    for count in range(1, number + 1):
        sent = models[-1]
        new, moments = carry_out(rule, opened(sent, number=count, state=state), replies_to(sent, seed=count))
        state = None if moments is None else dict(sorted(load(save(dict(moments))).items()))
        models.append(new)
    return models[1:]


def check(name: str, step: Any) -> None:
    """Check three rounds of a strategy against its formula, entry by entry; the formula has a state of its own."""
    state: dict[str, Any] = {}
    sent = started()
    for number, ours in enumerate(rounds(make_rule(name, **SETTINGS[name])), 1):
        for key, array in ours.items():
            assert array.dtype == np.float32
            expected = step(number, key, sent, replies_to(sent, seed=number), state)
            np.testing.assert_allclose(array, expected, rtol=2e-5, atol=2e-6)
        sent = ours


def mean_step(name: str, sent: Arrays, replies: Replies) -> NDArray[np.float64]:
    """Return the mean's distance from the model."""
    counts = np.array([count for _, count, _ in replies], dtype=np.float64)
    mean: NDArray[np.float64] = np.tensordot(counts / counts.sum(), stacked(name, replies), 1) - sent[name]
    return mean


def flat(arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    return np.concatenate([array.astype(np.float64).ravel() for array in arrays.values()])


def krum_scores(replies: Replies, malicious: int) -> NDArray[np.float64]:
    """Return for each reply the sum of squared distances to its n - f - 2 nearest neighbours."""
    vectors = [flat(arrays) for arrays, _, _ in replies]
    closest = len(vectors) - malicious - 2
    scores = [
        sum(sorted(float(((a - b) ** 2).sum()) for j, b in enumerate(vectors) if j != i)[:closest])
        for i, a in enumerate(vectors)
    ]
    return np.array(scores)


def test_fedavgm_is_sgd_with_momentum_on_the_mean_step() -> None:
    def step(number: int, name: str, sent: Arrays, replies: Replies, state: dict[str, Any]) -> Any:
        state[name] = 0.9 * state.get(name, 0.0) + mean_step(name, sent, replies)
        return sent[name] + 0.5 * state[name]

    check("fedavgm", step)


def test_fedadam_is_adam_on_the_mean_step() -> None:
    def step(number: int, name: str, sent: Arrays, replies: Replies, state: dict[str, Any]) -> Any:
        m, v = state.get(name, (0.0, 0.0))
        delta = mean_step(name, sent, replies)
        m, v = 0.9 * m + 0.1 * delta, 0.99 * v + 0.01 * delta**2
        state[name] = m, v
        rate = 0.02 * np.sqrt(1 - 0.99 ** (number + 1)) / (1 - 0.9 ** (number + 1))
        return sent[name] + rate * m / (np.sqrt(v) + 1e-3)

    check("fedadam", step)


def test_fedyogi_moves_its_second_moment_by_the_size_of_the_square() -> None:
    def step(number: int, name: str, sent: Arrays, replies: Replies, state: dict[str, Any]) -> Any:
        m, v = state.get(name, (0.0, 0.0))
        delta = mean_step(name, sent, replies)
        m, v = 0.9 * m + 0.1 * delta, v - 0.01 * delta**2 * np.sign(v - delta**2)
        state[name] = m, v
        return sent[name] + 0.02 * m / (np.sqrt(v) + 1e-3)

    check("fedyogi", step)


def test_fedadagrad_divides_by_the_root_of_the_sum_of_squares() -> None:
    def step(number: int, name: str, sent: Arrays, replies: Replies, state: dict[str, Any]) -> Any:
        delta = mean_step(name, sent, replies)
        state[name] = state.get(name, 0.0) + delta**2
        return sent[name] + 0.02 * delta / (np.sqrt(state[name]) + 1e-3)

    check("fedadagrad", step)


def test_qfedavg_weighs_steps_by_their_losses() -> None:
    def step(number: int, name: str, sent: Arrays, replies: Replies, state: dict[str, Any]) -> Any:
        bound, deltas, divisor = 1 / 0.2, 0.0, 0.0
        for arrays, _, metrics in replies:
            gradient = bound * (flat(sent) - flat(arrays))
            deltas = deltas + metrics["loss"] ** 0.5 * bound * (sent[name].astype(np.float64) - arrays[name])
            divisor += 0.5 * metrics["loss"] ** -0.5 * float((gradient**2).sum()) + bound * metrics["loss"] ** 0.5
        return sent[name] - deltas / divisor

    check("qfedavg", step)


def test_fedmedian_is_the_middle_of_each_number() -> None:
    check("fedmedian", lambda _number, name, _sent, replies, _state: np.sort(stacked(name, replies), axis=0)[3])


def test_fedtrimmedavg_leaves_the_largest_and_the_smallest_out() -> None:
    def step(number: int, name: str, sent: Arrays, replies: Replies, state: dict[str, Any]) -> Any:
        return np.sort(stacked(name, replies), axis=0)[1:-1].mean(axis=0)

    check("fedtrimmedavg", step)


def test_krum_takes_the_model_nearest_to_its_neighbours_bit_for_bit() -> None:
    sent = started()
    replies = replies_to(sent, seed=5)
    best = replies[int(np.argmin(krum_scores(replies, 2)))][0]
    new, _ = carry_out(make_rule("krum", num_malicious_nodes=2), opened(sent), replies)
    assert all(new[name].tobytes() == best[name].tobytes() for name in sent)


def test_multikrum_averages_the_nearest_by_their_numbers_of_samples() -> None:
    def step(number: int, name: str, sent: Arrays, replies: Replies, state: dict[str, Any]) -> Any:
        chosen = [replies[i] for i in np.argsort(krum_scores(replies, 1))[:3]]
        return sent[name] + mean_step(name, sent, chosen)

    check("multikrum", step)


def test_bulyan_averages_the_values_nearest_to_the_median_of_krums_choice() -> None:
    def step(number: int, name: str, sent: Arrays, replies: Replies, state: dict[str, Any]) -> Any:
        chosen = stacked(name, [replies[i] for i in np.argsort(krum_scores(replies, 1))[:5]])
        nearest = np.argsort(np.abs(chosen - np.median(chosen, axis=0)), axis=0)[:3]
        return np.take_along_axis(chosen, nearest, axis=0).mean(axis=0)

    check("bulyan", step)


@pytest.mark.parametrize("name", SETTINGS)
def test_three_rounds_end_where_flowers_own_object_ends_up_to_rounding(name: str) -> None:
    settings = SETTINGS[name] | ({"train_loss_key": "loss"} if name == "qfedavg" else {})
    stock, sent = FLOWERS[name](**settings), started()
    for number, ours in enumerate(rounds(make_rule(name, **SETTINGS[name])), 1):

        class Grid:
            def get_node_ids(self) -> list[int]:
                return [1, 2]

        list(stock.configure_train(number, record(sent), ConfigRecord(), Grid()))
        messages = [
            Message(
                RecordDict({"arrays": record(arrays), "metrics": MetricRecord({"num-examples": n, **m})}), 1, "train"
            )
            for arrays, n, m in replies_to(sent, seed=number)
        ]
        new, _ = stock.aggregate_train(number, messages)
        for key, array in ours.items():
            np.testing.assert_allclose(array, new[key].numpy(), rtol=2e-5, atol=2e-6)
        sent = ours


@pytest.mark.parametrize("name", [*SETTINGS, *PRIVACY])
def test_the_order_of_arrival_changes_nothing(name: str) -> None:
    sent = started()
    replies = replies_to(sent, seed=3, step=0.01)
    made = [carry_out(any_rule(name), opened(sent, seed=1), replies, order) for order in (None, [5, 2, 0, 6, 1, 4, 3])]
    assert all(made[0][0][key].tobytes() == made[1][0][key].tobytes() for key in sent)


@pytest.mark.parametrize("name", SETTINGS)
def test_counters_stay_integers_and_variances_positive(name: str) -> None:
    sent: Arrays = {**started(), "var": np.full(4, 1e-3, np.float32), "batches": np.array(10)}
    replies = replies_to(started(), seed=1)
    for client, (arrays, _, _) in enumerate(replies):
        arrays |= {"var": np.full(4, 1e-4 * (client + 1), np.float32), "batches": np.array(10 + 2**40 * client)}
    rule = make_rule(name, **SETTINGS[name] | ({"eta": 1.0} if "eta" in SETTINGS[name] else {}))
    new, _ = carry_out(rule, opened(sent, parameters=frozenset("wb")), replies)
    assert list(new) == list(sent)
    assert {key: (array.dtype, array.shape) for key, array in new.items()} == {
        key: (array.dtype, array.shape) for key, array in sent.items()
    }
    assert (new["var"] >= 1e-4).all()
    without, _ = carry_out(rule, opened(started()), replies_to(started(), seed=1))
    if name not in ("krum", "multikrum", "bulyan"):  # these compare whole models, variances too, but no counters
        assert all(np.allclose(new[key], without[key], atol=1e-6) for key in without)


@pytest.mark.parametrize("name", [*SETTINGS, *PRIVACY])
def test_shared_generators_and_flowers_log_are_left_as_they_were(name: str, caplog: pytest.LogCaptureFixture) -> None:
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    expected = random.random(), np.random.random()  # noqa: NPY002
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    level = logging.getLogger("flwr").level
    sent = started()
    carry_out(any_rule(name), opened(sent), replies_to(sent, seed=3, step=0.01))
    assert (random.random(), np.random.random()) == expected  # noqa: NPY002
    assert logging.getLogger("flwr").level == level
    assert not caplog.records


def test_fedprox_sends_mu_and_takes_the_mean() -> None:
    sent = started()
    rule, replies = make_rule("fedprox", proximal_mu=0.25), replies_to(sent, seed=1)
    assert rule.begin(opened(sent)).config == {"proximal-mu": 0.25}
    new, _ = carry_out(rule, opened(sent), replies)
    mean, _ = carry_out(make_rule("fedavg"), opened(sent), replies)
    assert all(new[key].tobytes() == mean[key].tobytes() for key in sent)


def test_a_strategy_needs_as_many_replies_as_its_promise() -> None:
    needed = {name: make_rule(name, **settings).needs() for name, settings in SETTINGS.items()}
    assert {name: count for name, count in needed.items() if count > 1} == {
        "fedmedian": 3,
        "fedtrimmedavg": 5,
        "krum": 7,
        "multikrum": 6,
        "bulyan": 7,
    }
    assert make_rule("fedtrimmedavg", beta=0.1).needs() == 10
    assert make_rule("fedtrimmedavg", beta=0.49).needs() == 3


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("fedadamm", {}, r"unknown strategy 'fedadamm' \(did you mean 'fedadam'\?\)"),
        ("fedadam", {"eta_g": 1}, "unknown setting of strategy 'fedadam' 'eta_g'"),
        ("fedadam", {"eta": 0}, "eta is 0"),
        ("fedadam", {"beta_2": 1}, "beta-2 is 1; it must be at least 0 and below 1"),
        ("fedadagrad", {"tau": -1}, "tau is -1"),
        ("fedavgm", {}, "strategy 'fedavgm' needs these settings: server_momentum"),
        ("fedavgm", {"server_momentum": 1.5}, "server-momentum is 1.5"),
        ("fedprox", {}, "needs these settings: proximal_mu"),
        ("fedprox", {"proximal_mu": -1}, "proximal-mu is -1"),
        ("qfedavg", {"q": "much"}, "q is 'much'"),
        ("fedtrimmedavg", {"beta": 0.5}, "beta is 0.5; it must be above 0 and below 0.5"),
        ("krum", {}, "needs these settings: num_malicious_nodes"),
        ("krum", {"num_malicious_nodes": -1}, "num-malicious-nodes is -1"),
        ("multikrum", {"num_malicious_nodes": 1, "num_nodes_to_select": 0}, "num-nodes-to-select is 0"),
        ("bulyan", {"num_malicious_nodes": 0.5}, "num-malicious-nodes is 0.5"),
        ("fedmedian", {"f": 1}, "strategy 'fedmedian' takes no settings; given: f"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_rule(name, **settings)


def test_only_means_count_as_such() -> None:
    assert [name for name in SETTINGS if is_mean(make_rule(name, **SETTINGS[name]))] == ["fedavg", "fedprox"]


def test_a_setting_named_like_our_argument_is_refused() -> None:
    with pytest.raises(InputError, match="unknown setting of strategy 'fedadam' 'name'"):
        make_rule("fedadam", name=1)
