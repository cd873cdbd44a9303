"""Clipping and noise on the asking device: what they do to a step, and the bound on the game that they buy."""

import math
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from fedquit.client.receipts.game_bound import game_bound
from fedquit.unlearning.evaluation.likelihood import auc
from fedquit.unlearning.leak.blurred_step import blurred
from fedquit.unlearning.methods.fedquit import FedQUIT
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.tensors.arithmetic import difference, norm, parameter_names

NAMES = {"w", "b"}
OLD = {"w": torch.ones(400, 50), "b": torch.zeros(50), "running": torch.ones(3)}


def moved(seed: int, length: float) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    step = {name: torch.randn(OLD[name].shape, generator=draw) for name in NAMES}
    scale = length / norm(step)
    return {**OLD, **{name: OLD[name] + scale * step[name] for name in NAMES}, "running": torch.zeros(3)}


@pytest.mark.parametrize("length", [0.5, 2.0, 30.0])
def test_a_step_is_shortened_to_the_clip_and_never_stretched(length: float) -> None:
    made = blurred(moved(0, length), OLD, NAMES, clip=2.0, noise=0.0, seed=1)
    assert norm(difference(made, OLD, NAMES)) == pytest.approx(min(2.0, length), rel=1e-3)
    assert torch.equal(made["running"], torch.zeros(3))


def test_noise_has_the_stated_scale_on_every_parameter() -> None:
    new = moved(0, 1.0)
    plain, noisy = (blurred(new, OLD, NAMES, clip=2.0, noise=noise, seed=1) for noise in (0.0, 0.5))
    left = torch.cat([value.flatten() for value in difference(noisy, plain, NAMES).values()])
    assert float(left.std()) == pytest.approx(0.5 * 2.0, rel=0.03)
    assert abs(float(left.mean())) < 0.03


def test_asking_again_draws_the_same_noise_and_averages_nothing_away() -> None:
    new = moved(0, 1.0)
    one, two, other = (blurred(new, OLD, NAMES, clip=1.0, noise=1.0, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], two[name]) for name in NAMES)
    assert not torch.equal(one["w"], other["w"])


def test_with_noise_the_buffers_are_those_that_came() -> None:
    made = blurred(moved(0, 1.0), OLD, NAMES, clip=1.0, noise=0.5, seed=1)
    assert torch.equal(made["running"], OLD["running"])


def test_with_noise_statistics_that_follow_the_samples_are_not_sent() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    old = deepcopy(model.state_dict())
    samples = Samples(torch.randn(8, 4), torch.tensor([0, 1] * 4))
    FedQUIT(statistics="local").forget(model, samples, seed=0)
    new, names = model.state_dict(), parameter_names(model)
    assert not torch.equal(new["1.running_mean"], old["1.running_mean"])
    made = blurred(new, old, names, clip=1.0, noise=4.0, seed=1)
    assert made.keys() == old.keys()
    assert all(torch.equal(made[name], old[name]) for name in made.keys() - names)


@pytest.mark.parametrize("noise", [1.0, 4.0])
def test_the_best_attack_stays_within_the_bound_and_comes_near_it(noise: float) -> None:
    """The worst case: two candidates whose steps point apart. The likelihood ratio is the best attack there is."""
    clip, towards, games = 1.0, torch.zeros(64), 3000
    towards[0] = 1.0
    scores = []
    for sign in (1.0, -1.0):
        found = [
            float(
                blurred({"w": sign * towards}, {"w": torch.zeros(64)}, {"w"}, clip=clip, noise=noise, seed=seed)["w"]
                @ towards
            )
            for seed in range(games)
        ]
        scores.append(torch.tensor(found[games // 2 :] if sign < 0 else found[: games // 2]))
    area = auc(*scores)
    assert area == pytest.approx(game_bound(noise), abs=4 * 0.6 / math.sqrt(games))
