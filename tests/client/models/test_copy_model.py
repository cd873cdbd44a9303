"""A quick copy of a model is what `copy.deepcopy` makes."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from fedquit.client.models.architectures import build_model
from fedquit.client.models.copy_model import copied, is_plain


def built(name: str) -> nn.Module:
    return build_model(name, input_shape=(1, 8, 8), num_classes=10, seed=0)


def shared_layer() -> nn.Module:
    layer = nn.Linear(64, 64)
    return nn.Sequential(nn.Flatten(), layer, nn.BatchNorm1d(64), layer)


def frozen() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False), nn.Dropout(0.5)).eval()
    model.requires_grad_(False)
    return model


class Counting(nn.Module):
    """A layer with a list of its own, which a copy must not share."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.seen = nn.Linear(64, 10), [0]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits, and count."""
        self.seen[0] += 1
        logits: Tensor = self.linear(inputs.flatten(1))
        return logits


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    model.register_forward_hook(lambda *_: None)
    return model


@pytest.mark.parametrize(
    "make",
    [lambda: built("mlp"), lambda: built("cnn"), lambda: built("resnet18"), shared_layer, frozen, Counting, hooked],
)
def test_a_copy_is_what_deepcopy_makes_and_shares_nothing(make: Callable[[], nn.Module]) -> None:
    model = make()
    copy, expected = copied(model), deepcopy(model)
    assert repr(copy) == repr(expected)
    assert list(copy.state_dict()) == list(expected.state_dict())
    assert [m.training for m in copy.modules()] == [m.training for m in expected.modules()]
    assert [(n, p.requires_grad) for n, p in copy.named_parameters()] == [
        (n, p.requires_grad) for n, p in expected.named_parameters()
    ]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for value in copy.state_dict().values():
            value.fill_(7)
    copy.train(not copy.training)
    copy(torch.zeros(4, 1, 8, 8))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert repr(model) == repr(make())
    assert [m.training for m in model.modules()] == [m.training for m in make().modules()]
    if isinstance(model, Counting):
        assert model.seen == [0]


def test_layers_that_are_one_stay_one_in_the_copy() -> None:
    copy = copied(shared_layer())
    assert isinstance(copy, nn.Sequential)
    assert copy[1] is copy[3]
    assert len(list(copy.parameters())) == 4


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_our_small_models_are_copied_the_quick_way(name: str) -> None:
    assert is_plain(built(name))
