"""Max pooling: PyTorch's bits, with and without a gradient."""

import copy
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fedquit.client.models.architectures import build_model
from fedquit.client.models.max_pool import MaxPool
from fedquit.client.training.sgd import fit
from fedquit.client.training.stacked_sgd import fit_stacked
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.tensors.inference import logits

ODD_NUMBERS = torch.tensor([0.0, 0.0, 1.0, -1.0, 1.0, float("inf"), -float("inf"), float("nan")])
SIDES = st.integers(2, 9)
assert_same = partial(torch.testing.assert_close, rtol=0, atol=0, equal_nan=True)


def numbers(height: int, width: int, seed: int) -> Tensor:
    """Return images in which many corners are equal."""
    return torch.randint(-2, 3, (3, 2, height, width), generator=torch.Generator().manual_seed(seed)).float()


def samples_of(shape: tuple[int, ...], count: int, seed: int) -> Samples:
    draw = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 4, (count, *shape), dtype=torch.uint8, generator=draw) * 80
    return Samples(images, torch.randint(10, (count,), generator=draw))


def with_pytorchs_pooling(model: nn.Module) -> nn.Module:
    other = copy.deepcopy(model)
    pools = [name for name, module in other.named_children() if isinstance(module, MaxPool)]
    assert len(pools) == 2
    for name in pools:
        setattr(other, name, nn.MaxPool2d(2))
    return other


def gradient(pool: nn.Module, images: Tensor, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what is pooled, its gradient for the images, and the gradient of that gradient for `slope`."""
    images, slope = images.clone().requires_grad_(), slope.clone().requires_grad_()
    pooled = pool(images)
    (first,) = torch.autograd.grad(pooled, images, slope, create_graph=True)
    (second,) = torch.autograd.grad((first * torch.arange(first.numel()).view_as(first)).sum(), slope)
    return pooled, first, second


@given(SIDES, SIDES, st.integers(0, 999))
def test_pooling_in_inference_gives_pytorchs_numbers(height: int, width: int, seed: int) -> None:
    images = numbers(height, width, seed)
    odd = ODD_NUMBERS[images.long() + 2]
    for given_ in (images, odd, images.to(memory_format=torch.channels_last), images.double()):
        with torch.no_grad():
            assert_same(MaxPool()(given_), nn.MaxPool2d(2)(given_))


@given(SIDES, SIDES, st.integers(0, 999))
def test_pooling_gives_pytorchs_gradient_and_its_gradient(height: int, width: int, seed: int) -> None:
    images = numbers(height, width, seed)
    slope = torch.randn(3, 2, height // 2, width // 2, generator=torch.Generator().manual_seed(seed))
    endless = torch.where(slope > 1, float("inf"), slope)  # at a place where it does not go, there is still no gradient
    for given_ in (images, images.to(memory_format=torch.channels_last), images.double()):
        for back in (slope, endless):
            ours, theirs = (gradient(pool, given_, back.to(given_.dtype)) for pool in (MaxPool(), nn.MaxPool2d(2)))
            assert_same(ours, theirs)


def test_pooling_keeps_the_form_of_a_single_image() -> None:
    image = numbers(5, 4, 0)[0].requires_grad_()
    assert MaxPool()(image).shape == (2, 2, 2)
    MaxPool()(image).sum().backward()
    assert image.grad is not None
    assert image.grad.sum() == 8


@pytest.mark.parametrize("shape", [(1, 1, 1, 4), (4, 4), (1, 1, 1, 4, 4)])
def test_pooling_refuses_what_pytorch_refuses(shape: tuple[int, ...]) -> None:
    for pool in (MaxPool(), nn.MaxPool2d(2)):
        with pytest.raises(RuntimeError):
            pool(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 33, 30)])
def test_the_cnn_gives_the_same_bits_as_with_pytorchs_pooling(shape: tuple[int, int, int]) -> None:
    model, samples = build_model("cnn", input_shape=shape, num_classes=10, seed=0), samples_of(shape, 9, 0)
    assert torch.equal(logits(model, samples), logits(with_pytorchs_pooling(model), samples))


def test_a_trained_cnn_has_the_same_bits_as_with_pytorchs_pooling() -> None:
    shape = (1, 28, 28)
    model, samples = build_model("cnn", input_shape=shape, num_classes=10, seed=0), samples_of(shape, 40, 1)
    other = with_pytorchs_pooling(model)
    losses = [fit(one, samples, lr=0.1, seed=3, epochs=2, momentum=0.9) for one in (model, other)]
    assert losses[0] == losses[1]
    for name, value in other.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_stacked_cnns_are_trained_as_one_by_one() -> None:
    shape = (1, 12, 12)
    model, each = (
        build_model("cnn", input_shape=shape, num_classes=10, seed=0),
        [samples_of(shape, n, n) for n in (5, 9)],
    )
    for place, (state, loss) in enumerate(fit_stacked(model, each, [1, 2], lr=0.1, epochs=2)):
        alone = copy.deepcopy(model)
        assert loss == pytest.approx(fit(alone, each[place], lr=0.1, seed=1 + place, epochs=2), rel=1e-5)
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-6)
