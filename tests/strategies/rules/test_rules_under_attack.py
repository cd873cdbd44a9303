"""What robust rules make of bad replies, and what no rule takes in."""

import numpy as np
import pytest
from flwr.serverapp.strategy.multikrum import compute_distances

from fedquit.errors import BadReplyError, FedquitError
from fedquit.strategies.rules import RULES, make_rule
from tests.strategies.rules.rule_rounds import (
    SETTINGS,
    Replies,
    any_rule,
    carry_out,
    opened,
    record,
    replies_to,
    stacked,
    started,
)


@pytest.mark.parametrize("name", [name for name in SETTINGS if RULES[name].traits.robust])
def test_robust_rules_stay_within_the_honest_spread_with_f_bad_clients(
    name: str,
) -> None:
    bad = {"fedmedian": 3, "fedtrimmedavg": 1, "krum": 2, "multikrum": 1, "bulyan": 1}[name]
    sent = started()
    replies = replies_to(sent, seed=2)
    honest = replies[bad:]
    low, high = ({key: edge(stacked(key, honest), axis=0) for key in sent} for edge in (np.min, np.max))
    for client in range(bad):
        replies[client] = {key: array + 1e6 for key, array in sent.items()}, 10**9, {"loss": 0.0}
    new, _ = carry_out(make_rule(name, **SETTINGS[name]), opened(sent), replies)
    assert all(((low[key] - 1e-5 <= new[key]) & (new[key] <= high[key] + 1e-5)).all() for key in sent)
    mean, _ = carry_out(make_rule("fedavg"), opened(sent), replies)
    assert not all((mean[key] <= high[key]).all() for key in sent), "the mean is moved"


def test_krum_separates_small_steps_that_flowers_distances_round_away() -> None:
    sent = {"w": np.full(1000, 100.0, np.float32)}
    rng = np.random.default_rng(0)
    replies: Replies = [
        ({"w": (sent["w"] + scale * rng.normal(size=1000)).astype(np.float32)}, 1, {"loss": 1.0})
        for scale in (0.02, 0.005, 0.003, 0.005, 0.005)
    ]
    new, _ = carry_out(make_rule("krum", num_malicious_nodes=1), opened(sent), replies)
    assert np.array_equal(new["w"], replies[2][0]["w"])
    vectors = stacked("w", replies)
    exact = ((vectors[:, None] - vectors[None]) ** 2).sum(axis=2)
    assert np.abs(compute_distances([record(arrays) for arrays, _, _ in replies]) - exact).max() > exact.max()


@pytest.mark.parametrize("name", [*[n for n in SETTINGS if RULES[n].traits.reads_single], "server-fixed"])
def test_a_reply_too_large_to_compare_is_refused_and_nothing_of_it_taken_in(name: str) -> None:
    sent = started()
    aggregate = any_rule(name).begin(opened(sent))
    with pytest.raises(BadReplyError, match="too large"):
        aggregate.add(7, {key: array + np.float32(1e30) for key, array in sent.items()}, 1, {"loss": 1.0})
    for client, reply in enumerate(replies_to(sent, seed=3)):
        aggregate.add(client, *reply)
    expected, _ = carry_out(any_rule(name), opened(sent), replies_to(sent, seed=3))
    assert all(aggregate.result()[0][key].tobytes() == expected[key].tobytes() for key in sent)


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [({}, "its loss is None"), ({"loss": -1.0}, "its loss is -1"), ({"loss": 1e99}, "large a weight")],
)
def test_qfedavg_refuses_a_loss_that_it_cannot_weigh_by(metrics: dict[str, float], reason: str) -> None:
    sent = started()
    with pytest.raises(BadReplyError, match=reason):
        make_rule("qfedavg", q=5).begin(opened(sent)).add(0, replies_to(sent, seed=0)[0][0], 1, metrics)


def test_a_step_that_ends_in_infinity_is_an_error_and_no_model() -> None:
    sent = started()
    rule = make_rule("fedavgm", server_momentum=0.5, server_learning_rate=1e300)
    with pytest.raises(FedquitError, match="'fedavgm': 'w' holds NaN or infinity; try smaller settings"):
        carry_out(rule, opened(sent), replies_to(sent, seed=0))


def test_a_model_beyond_what_its_dtype_holds_is_an_error_and_no_model() -> None:
    sent = {"w": np.zeros(1, np.float32), "n": np.array(0)}
    rule = make_rule("fedavgm", server_momentum=0.5)
    assert rule.model_of({"w": np.array([3e38]), "n": np.array(2.6)}, sent) == {"w": np.float32(3e38), "n": 3}
    with pytest.raises(FedquitError, match="'fedavgm': 'w' holds NaN or infinity; try smaller settings"):
        rule.model_of({"w": np.array([1e39]), "n": np.array(0.0)}, sent)
