"""Each strategy against its formula, against Flower's own, and against bad replies."""

import logging
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy.multikrum import compute_distances
from numpy.typing import NDArray
from safetensors.numpy import load, save

from fedquit.errors import BadReplyError, FedquitError, InputError
from fedquit.strategies.flower_internals import become_server_task
from fedquit.strategies.rules import PRIVACY, RULES, Opening, Rule, is_mean, make_private, make_rule
from fedquit.strategies.rules.flower import norm

Arrays = dict[str, NDArray[Any]]
Replies = list[tuple[Arrays, int, dict[str, float]]]

SETTINGS: dict[str, dict[str, float]] = {
    "fedavg": {},
    "fedprox": {"proximal_mu": 0.1},
    "fedavgm": {"server_momentum": 0.9, "server_learning_rate": 0.5},
    "fedadam": {"eta": 0.02},
    "fedyogi": {"eta": 0.02},
    "fedadagrad": {"eta": 0.02},
    "qfedavg": {"q": 0.5, "client_learning_rate": 0.2},
    "fedmedian": {},
    "fedtrimmedavg": {"beta": 0.2},
    "krum": {"num_malicious_nodes": 2},
    "multikrum": {"num_malicious_nodes": 1, "num_nodes_to_select": 3},
    "bulyan": {"num_malicious_nodes": 1},
}
FLOWERS: dict[str, Any] = {cls.lower(): getattr(flower, cls) for cls in flower.__all__ if cls.lower() in SETTINGS}


@pytest.fixture(autouse=True)
def in_a_task() -> None:
    become_server_task(1)


def started(seed: int = 0, scale: float = 1.0) -> Arrays:
    rng = np.random.default_rng(seed)
    return {name: (scale * rng.normal(size=shape)).astype(np.float32) for name, shape in (("w", (3, 4)), ("b", (4,)))}


def replies_to(sent: Arrays, seed: int, clients: int = 7, step: float = 0.1) -> Replies:
    rng = np.random.default_rng(seed)
    return [
        (
            {name: (array + step * rng.normal(size=array.shape)).astype(array.dtype) for name, array in sent.items()},
            int(rng.integers(1, 50)),
            {"loss": float(rng.uniform(0.1, 2.0)), "norm_bit": 0},
        )
        for _ in range(clients)
    ]


def opened(sent: Arrays, **changed: Any) -> Opening:
    return Opening(**{"sent": sent, "parameters": frozenset(sent), "asked": 7, **changed})


def carry_out(rule: Rule, opening: Opening, replies: Replies, order: list[int] | None = None) -> tuple[Arrays, Any]:
    aggregate = rule.begin(opening)
    for client in order or range(len(replies)):
        arrays, count, metrics = replies[client]
        aggregate.add(client, arrays, count, metrics)
    new, state = aggregate.result()
    return dict(new), state


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


def stacked(name: str, replies: Replies) -> NDArray[np.float64]:
    return np.stack([arrays[name].astype(np.float64) for arrays, _, _ in replies])


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


def record(arrays: Arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


@pytest.mark.parametrize("name", [*SETTINGS, *PRIVACY])
def test_the_order_of_arrival_changes_nothing(name: str) -> None:
    sent = started()
    replies = replies_to(sent, seed=3, step=0.01)
    made = [carry_out(any_rule(name), opened(sent, seed=1), replies, order) for order in (None, [5, 2, 0, 6, 1, 4, 3])]
    assert all(made[0][0][key].tobytes() == made[1][0][key].tobytes() for key in sent)


def any_rule(name: str, noise: float = 0.2) -> Rule:
    if name in RULES:
        return make_rule(name, **SETTINGS[name])
    norms = {"clipping_norm": 1.0} if name.endswith("fixed") else {"initial_clipping_norm": 1.0}
    return make_private(name, make_rule("fedavg"), noise_multiplier=noise, **norms)


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


# Differential privacy


def step_by(sent: Arrays, size: float, seed: int) -> Arrays:
    """Return a model that is `size` away from the one sent."""
    rng = np.random.default_rng(seed)
    step = {name: rng.normal(size=array.shape) for name, array in sent.items()}
    return {name: (sent[name] + size * step[name] / norm(step)).astype(np.float32) for name in sent}


def test_a_private_mean_clips_every_step_and_counts_every_client_once() -> None:
    sent = started()
    models = [step_by(sent, size, client) for client, size in enumerate((0.5, 4.0, 0.25))]
    replies: Replies = [(model, 10**client, {}) for client, model in enumerate(models)]
    new, _ = carry_out(any_rule("server-fixed", noise=0), opened(sent), replies)
    for key in sent:
        steps = [
            (model[key] - sent[key]) / max(1.0, size) for model, size in zip(models, (0.5, 4.0, 0.25), strict=True)
        ]
        np.testing.assert_allclose(new[key], sent[key] + np.mean(steps, axis=0), atol=1e-6)


@pytest.mark.parametrize("name", PRIVACY)
def test_the_noise_fits_the_norm_and_the_replies_that_came(name: str) -> None:
    sent = {"w": np.zeros(20000, np.float32)}
    replies: Replies = [(step_by(sent, 0.9, client), 5, {"norm_bit": 0}) for client in range(4)]
    opening = opened(sent, asked=7, seed=11)
    quiet, _ = carry_out(any_rule(name, noise=0), opening, replies)
    noisy, _ = carry_out(any_rule(name, noise=0.3), opening, replies)
    multiplier = 0.3 if name.endswith("fixed") else (0.3**-2 - (2 * 4 / 20) ** -2) ** -0.5
    assert (noisy["w"] - quiet["w"]).std() == pytest.approx(multiplier * 1.0 / 4, rel=0.02)


def test_the_noise_follows_from_the_rounds_seed() -> None:
    sent = started()
    replies = replies_to(sent, seed=3)
    one, again, other = (carry_out(any_rule("server-fixed"), opened(sent, seed=s), replies)[0] for s in (1, 1, 2))
    assert all(one[key].tobytes() == again[key].tobytes() != other[key].tobytes() for key in sent)


@pytest.mark.parametrize("name", ["server-adaptive", "client-adaptive"])
@pytest.mark.parametrize(("clipped", "moves"), [(1, 1), (0, -1)])
def test_the_norm_grows_when_too_many_are_clipped_and_shrinks_when_too_few(name: str, clipped: int, moves: int) -> None:
    sent, state = started(), None
    norms = [1.0]
    for number in (1, 2, 3):
        size = norms[-1] if name == "client-adaptive" else norms[-1] * (2 if clipped else 0.5)
        replies: Replies = [(step_by(sent, size, client), 1, {"norm_bit": clipped}) for client in range(5)]
        _, state = carry_out(any_rule(name, noise=0), opened(sent, number=number, state=state), replies)
        norms.append(float(state["clipping-norm"]))
    assert norms == pytest.approx([np.exp(0.2 * 0.5 * moves * number) for number in range(4)])


def test_flowers_own_adaptive_norm_still_runs_away_from_its_goal() -> None:
    stock = flower.DifferentialPrivacyServerSideAdaptiveClipping(flower.FedAvg(), 0.0, 2, initial_clipping_norm=1.0)
    stock._geometric_update(1.0)
    assert stock.clipping_norm < 1.0, "mended in Flower: ours can go"


def test_a_step_that_was_to_be_clipped_on_the_device_and_was_not_is_refused() -> None:
    sent = started()
    aggregate = any_rule("client-fixed").begin(opened(sent))
    assert aggregate.config == {"clipping_norm": 1.0}
    aggregate.add(0, step_by(sent, 1.0, 0), 1, {})
    with pytest.raises(BadReplyError, match=r"its step has norm 1.01; it was to be clipped to 1"):
        aggregate.add(1, step_by(sent, 1.01, 0), 1, {})


def test_an_adaptive_norm_that_devices_clip_to_is_the_one_kept() -> None:
    sent = started()
    opening = opened(sent, state={"clipping-norm": np.array(0.5)})
    aggregate = any_rule("client-adaptive").begin(opening)
    assert aggregate.config == {"clipping_norm": 0.5}
    with pytest.raises(BadReplyError, match=r"clipped to 0.5"):
        aggregate.add(0, step_by(sent, 0.6, 0), 1, {"norm_bit": 0})
    with pytest.raises(BadReplyError, match="does not say whether it clipped"):
        aggregate.add(0, step_by(sent, 0.4, 0), 1, {})


def test_a_model_sent_back_as_it_was_cannot_be_clipped_and_is_refused() -> None:
    sent = started()
    with pytest.raises(BadReplyError, match="sent the model back as it was"):
        any_rule("server-fixed").begin(opened(sent)).add(0, sent, 1, {})


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("server", {}, "unknown dp 'server'"),
        ("server-fixed", {"noise_multiplier": 1}, "needs these settings: clipping_norm"),
        ("server-fixed", {"inner": 1}, "unknown setting of dp 'server-fixed' 'inner'.*known: noise_multiplier"),
        ("server-fixed", {"noise_multiplier": 1, "clipping_norm": 0}, "clipping-norm is 0"),
        ("client-adaptive", {"noise_multiplier": -1}, "noise-multiplier is -1"),
        ("server-adaptive", {"noise_multiplier": 1, "target_clipped_quantile": 2}, "target-clipped-quantile is 2"),
    ],
)
def test_settings_of_privacy_that_make_no_sense_are_refused(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_private(name, make_rule("fedavg"), **settings)


def test_noise_that_is_too_much_for_so_few_clients_is_refused_beforehand() -> None:
    rule = make_private("server-adaptive", make_rule("fedavg"), noise_multiplier=1.0)
    with pytest.raises(InputError, match=r"dp = server-adaptive, 5 clients a round: .*clipped_count_stddev"):
        rule.check_size(5)
    rule.check_size(30)


def test_a_setting_named_like_our_argument_is_refused() -> None:
    with pytest.raises(InputError, match="unknown setting of strategy 'fedadam' 'name'"):
        make_rule("fedadam", name=1)
