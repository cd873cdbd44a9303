"""Differential privacy of the mean: clipping, noise that follows from the seed, and settings that are refused."""

from typing import Any

import numpy as np
import pytest
from flwr.serverapp import strategy as flower

from fedquit.errors import BadReplyError, InputError
from fedquit.strategies.rules import PRIVACY, make_private, make_rule
from fedquit.strategies.rules.flower import norm
from tests.strategies.rules.rule_rounds import Arrays, Replies, any_rule, carry_out, opened, replies_to, started


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
