"""Max pooling: PyTorch's numbers in inference, and PyTorch itself where a gradient is wanted."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedquit.client.models.architectures import build_model
from fedquit.client.models.max_pool import MaxPool
from fedquit.unlearning.samples import Samples
from fedquit.unlearning.tensors.inference import logits

ODD_NUMBERS = torch.tensor([0.0, 0.0, 1.0, -1.0, 1.0, float("inf"), -float("inf"), float("nan")])


@given(st.integers(2, 9), st.integers(2, 9), st.integers(0, 999))
def test_pooling_in_inference_gives_pytorchs_numbers(height: int, width: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    numbers = torch.randn(3, 2, height, width, generator=draw)
    odd = ODD_NUMBERS[torch.randint(len(ODD_NUMBERS), numbers.shape, generator=draw)]
    for images in (numbers, odd, numbers.to(memory_format=torch.channels_last)):
        with torch.no_grad():
            torch.testing.assert_close(MaxPool()(images), nn.MaxPool2d(2)(images), rtol=0, atol=0, equal_nan=True)


def test_pooling_in_training_gives_pytorchs_gradient_where_corners_are_equal() -> None:
    gradients = []
    for pool in (MaxPool(), nn.MaxPool2d(2)):
        images = torch.ones(1, 1, 4, 4, requires_grad=True)
        pool(images).sum().backward()
        gradients.append(images.grad)
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 33, 30)])
def test_the_cnn_gives_the_same_bits_as_with_pytorchs_pooling(shape: tuple[int, int, int]) -> None:
    model = build_model("cnn", input_shape=shape, num_classes=10, seed=0)
    other = copy.deepcopy(model)
    for name, module in model.named_children():
        if isinstance(module, MaxPool):
            setattr(other, name, nn.MaxPool2d(2))
    images = torch.randint(256, (9, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    samples = Samples(images, torch.zeros(9, dtype=torch.long))
    assert [type(module) for module in other.children() if isinstance(module, nn.MaxPool2d)] == [
        nn.MaxPool2d,
        nn.MaxPool2d,
    ]
    assert torch.equal(logits(model, samples), logits(other, samples))
