import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fedquit.errors import InputError
from fedquit.unlearning import Samples
from fedquit.unlearning.evaluation.relearn import relearn

HOW: dict[str, Any] = {"lr": 0.1, "batch_size": 8, "target_accuracy": 0.95, "max_steps": 200, "seed": 0}


def blobs(seed: int, classes: tuple[int, ...] = (0, 1, 2)) -> Samples:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.tensor(classes)[torch.randint(len(classes), (48,), generator=draw)]
    return Samples(torch.randn(48, 6, generator=draw) + 3 * F.one_hot(labels, 6), labels)


def network(dropout: float = 0.0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3))


def accuracy(model: nn.Module, samples: Samples) -> float:
    return float((model(samples.inputs).argmax(1) == samples.labels).double().mean())


def test_it_stops_at_the_first_step_at_which_a_loop_written_out_gets_there() -> None:
    model, samples = network(), blobs(0)
    steps = relearn(model, samples, **{**HOW, "batch_size": 48})
    assert steps is not None
    assert steps > 1
    hand = copy.deepcopy(model)
    for _ in range(steps):
        assert accuracy(hand, samples) < 0.95
        hand.zero_grad()
        torch.autograd.backward(F.cross_entropy(hand(samples.inputs), samples.labels))
        with torch.no_grad():
            for parameter in hand.parameters():
                assert parameter.grad is not None
                parameter.sub_(0.1 * parameter.grad)
    assert accuracy(hand, samples) >= 0.95


def test_a_model_that_hid_the_samples_relearns_them_sooner_than_a_new_one() -> None:
    samples, hidden = blobs(0), network()
    relearned = relearn(hidden, samples, **HOW)
    optimizer = torch.optim.Adam(hidden.parameters(), 0.05)
    for _ in range(50):
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(hidden(samples.inputs), samples.labels))
        optimizer.step()
    with torch.no_grad():
        hidden.get_parameter("3.bias").add_(torch.tensor([30.0, 0.0, 0.0]))
    assert accuracy(hidden, samples) < 0.5
    again = relearn(hidden, samples, **HOW)
    assert again is not None
    assert relearned is not None
    assert again < relearned


def test_the_seed_decides_and_model_mode_and_global_generators_are_unchanged() -> None:
    model, samples = network(dropout=0.5), blobs(0)
    before, counts = copy.deepcopy(model.state_dict()), set()
    model.eval()
    for other in range(8):
        with torch.random.fork_rng():
            torch.manual_seed(other)  # the caller's random numbers have no part in it
            state = torch.get_rng_state()
            counts.add(relearn(model, samples, **HOW))
            assert torch.equal(torch.get_rng_state(), state)
    assert len(counts) == 1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.training
    assert len({relearn(model, samples, **{**HOW, "batch_size": 2, "seed": seed}) for seed in range(6)}) > 1


def test_training_on_other_samples_is_measured_on_the_forgotten_ones() -> None:
    """Class 2 does not come back from samples of classes 0 and 1; samples like the forgotten ones bring them back."""
    forgotten = blobs(0, classes=(2,))
    assert relearn(network(), blobs(1, classes=(0, 1)), forgotten=forgotten, **HOW) is None
    assert relearn(network(), blobs(1), forgotten=forgotten, **HOW) is not None


def test_zero_if_it_is_there_already_and_none_if_not_in_time() -> None:
    assert relearn(network(), blobs(0), **{**HOW, "target_accuracy": 0.0}) == 0
    assert relearn(network(), blobs(0), **{**HOW, "max_steps": 1}) is None


def test_checking_seldom_gives_the_next_multiple() -> None:
    # the whole set at once: no step undoes the one before
    steps = relearn(network(), blobs(0), **{**HOW, "batch_size": 48})
    assert steps is not None
    coarse = relearn(network(), blobs(0), **{**HOW, "batch_size": 48}, check_every=4)
    assert coarse == -(-steps // 4) * 4


def test_relearning_refuses_settings_that_make_no_sense() -> None:
    with pytest.raises(InputError, match="max_steps is 0"):
        relearn(network(), blobs(0), **{**HOW, "max_steps": 0})
    with pytest.raises(InputError, match="target_accuracy is 95"):
        relearn(network(), blobs(0), **{**HOW, "target_accuracy": 95})
    with pytest.raises(InputError, match="no samples to relearn"):
        relearn(network(), blobs(0).subset(torch.arange(0)), **HOW)
