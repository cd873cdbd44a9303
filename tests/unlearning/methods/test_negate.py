"""Negation finds the layer that acts on the input, whatever the model names first."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from fedquit.client.models.architectures import GreyToRGB, cnn, mlp, resnet18
from fedquit.errors import InputError
from fedquit.unlearning.methods.negate import negated
from fedquit.unlearning.tensors.first_layer import first_weights, names_of

IMAGE = (3, 16, 16)


def vit(head: bool = True) -> nn.Module:
    """Return a vision transformer as torchvision builds vit_b_16, but small; its head is zero before it is trained."""
    from torchvision.models import VisionTransformer

    model: nn.Module = VisionTransformer(
        image_size=16, patch_size=8, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=5
    )
    if head:
        nn.init.normal_(model.get_parameter("heads.head.weight"))
    return model


def torchvision(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from torchvision.models import get_model

        model: nn.Module = get_model(name, weights=None, num_classes=5)
        return model

    return make


class Tied(nn.Module):
    """An encoder whose weights are used again, turned round, before the head."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, 768))  # named first, acts on the input, and is no layer
        self.encoder, self.between = nn.Linear(768, 12, bias=False), between
        self.again = nn.Linear(768, 12)
        self.again.weight = self.encoder.weight
        self.head = nn.Linear(12, 5)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.between(self.encoder(images.flatten(1) * self.scale))
        back = F.linear(hidden, self.encoder.weight.T)
        logits: Tensor = self.head(back[:, :12])
        return logits


class Positions(nn.Module):
    """What a transformer of one's own may have: a token, positions, and a layer that never sees the input."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.ones(1, 1, 8))
        self.table = nn.Embedding(17, 8)
        self.shift = nn.Linear(8, 8)
        self.before = nn.Parameter(torch.ones(1, *IMAGE))
        self.rows = nn.Parameter(torch.randn(8, 48))
        self.head = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        where = self.shift(self.table(torch.arange(17)))
        rows = (images + self.before).reshape(len(images), 16, 48) @ self.rows.T
        tokens = torch.cat([self.token.expand(len(images), -1, -1), rows], dim=1) + where
        logits: Tensor = self.head(tokens.relu().mean(dim=1))
        return logits


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], set[str]]] = {
    "mlp": (lambda: mlp(IMAGE, 5), IMAGE, {"1.weight"}),
    "cnn": (lambda: cnn(IMAGE, 5), IMAGE, {"0.weight"}),
    "resnet18": (lambda: resnet18(IMAGE, 5), IMAGE, {"conv1.weight"}),
    "torchvision's resnet18": (torchvision("resnet18"), (3, 32, 32), {"conv1.weight"}),
    "densenet": (torchvision("densenet121"), (3, 32, 32), {"features.conv0.weight"}),
    "vision transformer": (vit, IMAGE, {"conv_proj.weight"}),
    "untrained vision transformer": (lambda: vit(head=False), IMAGE, {"conv_proj.weight"}),
    "grey": (lambda: GreyToRGB(vit()), (1, 16, 16), {"net.conv_proj.weight"}),
    "normalised first": (
        lambda: nn.Sequential(nn.BatchNorm2d(3), nn.LayerNorm(IMAGE), nn.Conv2d(3, 4, 16), nn.Flatten()),
        IMAGE, {"2.weight"},
    ),
    "used again": (lambda: Tied(nn.ReLU()), IMAGE, {"encoder.weight", "again.weight"}),
    "positions": (Positions, IMAGE, {"rows"}),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_negation_turns_the_layer_that_acts_on_the_input_alone(name: str) -> None:
    make, shape, turned = MODELS[name]
    torch.manual_seed(0)
    model, inputs = make().eval(), torch.rand(2, *shape)
    model(inputs)  # lazy layers take their shapes
    before, answers = copy.deepcopy(model.state_dict()), model(inputs)
    state = negated(model, inputs)
    assert {key for key in state if not torch.equal(state[key], before[key])} == turned
    assert all(torch.equal(state[key], -before[key]) for key in turned)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    model.load_state_dict(state)  # where a weight has two names the second one wins
    assert torch.allclose(model(inputs), answers) == (name == "untrained vision transformer")


def test_layers_side_by_side_are_all_first() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other, self.last = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(3, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            logits: Tensor = self.last((self.one(inputs) + self.other(inputs)).relu())
            return logits

    model = Branches()
    assert names_of(model, first_weights(model, torch.rand(2, 4))) == {"one.weight", "other.weight"}


class Blind(nn.Module):
    """A model whose answer no learnable weight leads to from the input."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(2, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        said: Tensor = self.table((inputs > 0).long()).sum(dim=1)
        return said


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Blind, "no parameter that learns acts on the model's input"),
        (lambda: nn.Linear(4, 3).requires_grad_(False), "no parameter that learns acts on the model's input"),
        (
            lambda: weight_norm(nn.Linear(4, 3)),
            "made of parametrizations.weight.original0, parametrizations.weight.original1",
        ),
        (lambda: spectral_norm(nn.Linear(4, 3)), "turning parametrizations.weight.original changes no answer"),
        (lambda: nn.Sequential(nn.Linear(4, 3, bias=False), Square()), "turning 0.weight changes no answer"),
    ],
)
def test_where_there_is_no_such_layer_negation_is_refused(make: Callable[[], nn.Module], why: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(InputError, match=why) as refused:
        negated(make(), torch.rand(2, 4) * 2 - 1)
    assert str(refused.value).startswith("negate: ")
    assert str(refused.value).endswith("; use another method")
    assert "\n" not in str(refused.value)


def test_shared_weights_whose_signs_cancel_are_refused() -> None:
    torch.manual_seed(0)
    with pytest.raises(InputError, match=r"negate: turning again\.weight, encoder\.weight"):
        negated(Tied(nn.Tanh()), torch.rand(2, *IMAGE))


class Square(nn.Module):
    """Says the same of an input and its negative."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.square()
