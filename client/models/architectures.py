"""Models by name, with initial weights that depend on the seed alone.

`mlp` and `cnn` are the networks of "Communication-Efficient Learning of Deep Networks from Decentralized Data"
(McMahan et al., arXiv 1602.05629); `resnet18` is the usual CIFAR variant, with group instead of batch normalisation,
whose running statistics do not average well over clients with different data.
"""

import math
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial

import torch
from torch import Tensor, nn

from fedquit.client.models.initial_weights import draw_glorot
from fedquit.client.models.max_pool import MaxPool
from fedquit.errors import InputError, unknown
from fedquit.user_factory import import_factory, is_factory

InputShape = tuple[int, int, int]
TENSOR_TYPES = frozenset(
    {torch.float16, torch.float32, torch.float64}
    | {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
)
"""Types that a model's tensors may have: NumPy has no bfloat16, and other types have no weighted mean."""


def build_model(name: str, *, input_shape: InputShape, num_classes: int, seed: int, init: str = "default") -> nn.Module:
    """Build a model whose outputs are logits [B, num_classes], and try it on two inputs.

    Args:
        name: One of `MODELS`, any torchvision classifier (never pretrained), or `package.module:factory`, called
            with `input_shape` and `num_classes`.
        input_shape: Channels, height and width.
        num_classes: Number of classes.
        seed: Decides the initial weights; torch's global generator is left as it was.
        init: "default": the model's own initial weights; "glorot": those of `draw_glorot`.

    Raises:
        InputError: For an unknown name, or a model that cannot take such inputs.

    >>> model = build_model("cnn", input_shape=(1, 28, 28), num_classes=10, seed=0)
    >>> model(torch.zeros(5, 1, 28, 28)).shape, num_parameters(model)
    (torch.Size([5, 10]), 1663370)
    """
    build = _find(name)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            model = build(input_shape, num_classes)
        except InputError:
            raise
        except Exception as error:
            raise InputError(_misfit(name, input_shape, _reason(error))) from error
        _try_out(name, model, input_shape, num_classes)
        if init == "glorot":  # after the trial, by which lazy layers get their weights
            draw_glorot(model)
    return model


def num_parameters(model: nn.Module) -> int:
    """Count the trainable parameters.

    >>> num_parameters(nn.Linear(3, 2))
    8
    """
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def mlp(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Build the FedAvg paper's 2NN: two hidden layers of 200 (199,210 parameters on 28x28)."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(input_shape), 200),
        nn.ReLU(),
        nn.Linear(200, 200),
        nn.ReLU(),
        nn.Linear(200, num_classes),
    )


def cnn(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Build the FedAvg paper's CNN: two pooled 5x5 convolutions, 512 hidden units (1,663,370 parameters on 28x28)."""
    channels, height, width = input_shape
    if min(height, width) < 4:
        raise ValueError("it halves them twice")
    return nn.Sequential(
        nn.Conv2d(channels, 32, kernel_size=5, padding=2),
        nn.ReLU(),
        MaxPool(),
        nn.Conv2d(32, 64, kernel_size=5, padding=2),
        nn.ReLU(),
        MaxPool(),
        nn.Flatten(),
        nn.Linear(64 * (height // 4) * (width // 4), 512),
        nn.ReLU(),
        nn.Linear(512, num_classes),
    )


def resnet18(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Build ResNet-18 for small images: a 3x3 stem of stride 1, no first pooling, normalised in two groups."""
    from torchvision.models import resnet18 as torchvision_resnet18

    model = torchvision_resnet18(num_classes=num_classes, norm_layer=lambda channels: nn.GroupNorm(2, channels))
    stem = nn.Conv2d(input_shape[0], 64, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    model.conv1, model.maxpool = stem, nn.Identity()
    return model  # type: ignore[no-any-return]


MODELS: dict[str, Callable[[InputShape, int], nn.Module]] = {"mlp": mlp, "cnn": cnn, "resnet18": resnet18}


class GreyToRGB(nn.Module):
    """Show a grey image to a network made for three channels; adds no parameter.

    >>> GreyToRGB(nn.Flatten())(torch.zeros(2, 1, 4, 4)).shape
    torch.Size([2, 48])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Return the network's output for images [B, 1, H, W]."""
        logits: Tensor = self.net(images.expand(-1, 3, -1, -1))
        return logits


def _find(name: str) -> Callable[[InputShape, int], nn.Module]:
    """Return what builds the model called `name`."""
    if name in MODELS:
        return MODELS[name]
    if is_factory(name):
        return partial(_made_by, name)
    from torchvision import models

    names = models.list_models(module=models)
    if name in names:
        return partial(_torchvision, name)
    near = get_close_matches(name, names, n=1)
    error = unknown("model", name, [*MODELS, *(match for match in near if match not in MODELS)])
    raise InputError(f"{error}, any other torchvision classifier, or package.module:factory")


def _torchvision(name: str, input_shape: InputShape, num_classes: int) -> nn.Module:
    from torchvision.models import get_model

    extra = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    if input_shape[0] not in (1, 3):
        raise InputError(f"model '{name}' takes images of 1 or 3 channels, not {input_shape[0]}")
    model: nn.Module = get_model(name, weights=None, num_classes=num_classes, **extra)
    return GreyToRGB(model) if input_shape[0] == 1 else model


def _made_by(spec: str, input_shape: InputShape, num_classes: int) -> nn.Module:
    factory = import_factory(spec)
    try:
        model = factory(input_shape=input_shape, num_classes=num_classes)
    except Exception as error:
        raise InputError(f"model factory '{spec}' failed ({_reason(error)})") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"model factory '{spec}' gave a {type(model).__name__} instead of a torch.nn.Module")
    return model


def _try_out(name: str, model: nn.Module, input_shape: InputShape, num_classes: int) -> None:
    """Run two inputs of zeros through the model as in evaluation, and leave it as it was."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            logits = model(torch.zeros(2, *input_shape))
    except Exception as error:
        raise InputError(_misfit(name, input_shape, _reason(error))) from error
    model.train(was_training)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (2, num_classes):
        given = list(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise InputError(f"model '{name}' gives {given} for 2 inputs; it must give logits [2, {num_classes}]")
    if not torch.isfinite(logits).all():
        raise InputError(f"model '{name}' gives NaN or infinite logits before any training")
    for entry, value in model.state_dict().items():
        if value.dtype not in TENSOR_TYPES:
            kind = str(value.dtype).removeprefix("torch.")
            raise InputError(f"model '{name}': '{entry}' is {kind}, which messages cannot carry; make it float32")


def _misfit(name: str, input_shape: InputShape, reason: str) -> str:
    channels, height, width = input_shape
    if min(height, width) == 1:
        shown, way = "rows of numbers", "choose 'mlp'"
    else:
        shown = f"images of {channels}x{height}x{width}, perhaps too small for it"
        way = "give another --image-size, or choose another model"
    return f"model '{name}' cannot take {shown} ({reason}); {way}"


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
