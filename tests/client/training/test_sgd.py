"""Local training equals a loop written by hand, depends on its seed alone, and leaves nothing behind."""

import contextlib
import copy
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from fedquit.client.training.sgd import deterministic, evaluate, fit
from fedquit.unlearning.samples import Samples, shuffled_batches

FEATURES, CLASSES = 6, 3


def samples(size: int = 41) -> Samples:
    generator = torch.Generator().manual_seed(5)
    return Samples(
        torch.randn(size, FEATURES, generator=generator), torch.randint(0, CLASSES, (size,), generator=generator)
    )


def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(FEATURES, 7), nn.Tanh(), nn.Linear(7, CLASSES))


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def by_hand(
    model: nn.Module,
    data: Samples,
    *,
    lr: float,
    epochs: int,
    batch_size: int,
    momentum: float,
    decay: float,
    seed: int,
) -> float:
    """Write SGD out: v <- momentum v + (g + decay w), w <- w - lr v; return the mean loss of the last epoch."""
    generator = torch.Generator().manual_seed(seed)
    velocity: list[torch.Tensor] = [torch.zeros_like(p) for p in model.parameters()]
    losses: list[float] = []
    for _ in range(epochs):
        losses = []
        for index in shuffled_batches(len(data), batch_size, generator):
            inputs, labels = data.batch(index)
            each = F.cross_entropy(model(inputs), labels, reduction="none")
            losses += each.tolist()
            gradients = torch.autograd.grad(each.mean(), list(model.parameters()))
            with torch.no_grad():
                for parameter, gradient, speed in zip(model.parameters(), gradients, velocity, strict=True):
                    speed.mul_(momentum).add_(gradient + decay * parameter)
                    parameter.sub_(lr * speed)
    return sum(losses) / len(losses)


@settings(max_examples=15)
@given(
    size=st.integers(1, 40),
    batch_size=st.integers(1, 45),
    epochs=st.integers(1, 3),
    lr=st.sampled_from([0.01, 0.3]),
    momentum=st.sampled_from([0.0, 0.9]),
    decay=st.sampled_from([0.0, 0.05]),
)
def test_training_equals_sgd_written_out(
    size: int, batch_size: int, epochs: int, lr: float, momentum: float, decay: float
) -> None:
    ours, theirs = net().double(), net().double()  # so that rounding, which training amplifies, stays small
    data = Samples(samples(size).inputs.double(), samples(size).labels)
    loss = fit(
        ours,
        data,
        lr=lr,
        epochs=epochs,
        batch_size=batch_size,
        momentum=momentum,
        weight_decay=decay,
        seed=11,
    )
    expected = by_hand(
        theirs, data, lr=lr, epochs=epochs, batch_size=batch_size, momentum=momentum, decay=decay, seed=11
    )
    for got, wanted in zip(weights(ours), weights(theirs), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-10)
    assert loss == pytest.approx(expected, rel=1e-9)


def test_the_same_seed_trains_the_same_model_and_another_seed_another() -> None:
    models = []
    for seed in (1, 1, 2):
        model = net()
        with deterministic(seed):
            fit(model, samples(), lr=0.1, batch_size=8, seed=seed)
        models.append(weights(model))
    same, again, other = models
    assert all(torch.equal(a, b) for a, b in zip(same, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(same, other, strict=True))


def test_dropout_too_depends_on_the_seed_alone() -> None:
    outcomes = []
    for before in (10, 20):
        torch.manual_seed(before)
        model = nn.Sequential(nn.Dropout(0.5), *copy.deepcopy(list(net())))  # type: ignore[call-overload]
        with deterministic(4):
            fit(model, samples(), lr=0.1, batch_size=8, seed=4)
        outcomes.append(weights(model))
    assert all(torch.equal(a, b) for a, b in zip(*outcomes, strict=True))


def test_global_random_numbers_and_threads_are_as_they_were_afterwards() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.manual_seed(77)
        random.seed(77)
        before = torch.random.get_rng_state(), random.getstate()
        with deterministic(1):
            assert torch.get_num_threads() == 1
            torch.rand(3)
            fit(net(), samples(), lr=0.1, seed=1)
        with contextlib.suppress(KeyError), deterministic(1):
            torch.rand(3)
            raise KeyError
        assert torch.get_num_threads() == 2
        assert torch.equal(torch.random.get_rng_state(), before[0])
        assert random.getstate() == before[1]
    finally:
        torch.set_num_threads(threads)


def test_training_leaves_the_model_free_of_evaluation_mode() -> None:
    model = nn.Sequential(nn.BatchNorm1d(FEATURES), nn.Linear(FEATURES, CLASSES))
    evaluate(model, samples())
    fit(model, samples(33), lr=0.1, batch_size=8, seed=0)
    counter = model.state_dict()["0.num_batches_tracked"]
    assert int(counter) == 4  # 33 samples in eights: the batch of one joins the one before


@pytest.mark.parametrize("batch_size", [1, 2, 500])
def test_evaluation_counts_right_whatever_the_batch(batch_size: int) -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0], [0.0, 0.0], [-1.0, 1.0]])
    labels = torch.tensor([0, 1, 1, 0, 0])
    loss, accuracy = evaluate(nn.Identity(), Samples(logits, labels), batch_size)
    assert accuracy == 3 / 5
    right = [1 + 2.718281828459045**-gap for gap in (2.0, 3.0, -1.0, 0.0, -2.0)]
    assert loss == pytest.approx(sum(torch.tensor(right, dtype=torch.float64).log().tolist()) / 5, rel=1e-6)


def test_evaluation_changes_no_weights_and_no_statistics() -> None:
    model = nn.Sequential(nn.BatchNorm1d(FEATURES), nn.Dropout(0.9), nn.Linear(FEATURES, CLASSES))
    before = copy.deepcopy(model.state_dict())
    first, second = (evaluate(model, samples()) for _ in range(2))
    assert first == second
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
