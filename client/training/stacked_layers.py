"""Gradients of many devices' models at once, for models that are a sequence of linear and elementwise layers.

Any model can be stacked with `torch.vmap`, which takes every operation apart and puts it together again. What layers of
one sequence do to stacked samples is known beforehand: elementwise ones do the same, and a linear one is one product of
matrices for each device, or a single one while all devices still have the same weights. PyTorch takes the loss back to
the outputs of linear layers; with their inputs these are the gradients of the weights, a product for each device.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedquit.client.models.copy_model import is_plain

ELEMENTWISE = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Identity)

Weights = Mapping[str, Tensor]
"""Name -> the devices' weights [k, ...]."""


@dataclass(frozen=True, slots=True)
class Whole:
    """The gradient of devices' tensors [k, ...]."""

    gradient: Tensor

    def added(self, to: Tensor, into: Tensor, *, scale: float, factor: float) -> None:
        """Write `scale * to + factor * gradient` into a tensor, which may be `to`."""
        torch.add(to * scale, self.gradient, alpha=factor, out=into)


@dataclass(frozen=True, slots=True)
class Product:
    """The same for matrices [k, n, m], as the product of `left` [k, n, B] and `right` [k, B, m].

    It is made where it is added, so that no memory is read and written for it alone.
    """

    left: Tensor
    right: Tensor

    def added(self, to: Tensor, into: Tensor, *, scale: float, factor: float) -> None:
        """See `Whole`."""
        torch.baddbmm(to, self.left, self.right, beta=scale, alpha=factor, out=into)


Gradients = Callable[[Weights, Tensor, Tensor, Tensor], tuple[Tensor, Mapping[str, Whole | Product]]]
"""From weights, inputs [k, B, ...], labels [k, B] and the weight of each sample in its device's loss [k, B]: the loss
of each device [k], and the gradients of the trainable weights."""


def gradients_of_sequence(model: nn.Module, trainable: Collection[str]) -> Gradients | None:
    """Return a function that computes the gradients of `trainable` for a model of such layers; None: it has others.

    >>> gradients_of_sequence(nn.Linear(1, 2), ["weight", "bias"]) is None
    True
    """
    layers = list(_layers(model, "")) if isinstance(model, nn.Sequential) and is_plain(model) else []
    if not layers or not all(isinstance(layer, nn.Linear) or _is_elementwise(layer) for _, layer in layers):
        return None

    def gradients(
        weights: Weights, inputs: Tensor, labels: Tensor, shares: Tensor
    ) -> tuple[Tensor, Mapping[str, Whole | Product]]:
        values, seen = inputs.flatten(0, 1), list[tuple[str, Tensor, Tensor]]()
        for name, layer in layers:
            if isinstance(layer, nn.Linear):
                before, values = values, _linear(values, weights[f"{name}weight"], weights.get(f"{name}bias"))
                values.requires_grad_()
                seen.append((name, before.detach(), values))
            else:
                values = layer(values)
        losses = F.cross_entropy(values, labels.flatten(), reduction="none").view_as(shares)
        means = (losses * shares).sum(dim=1)
        slopes = torch.autograd.grad(means.sum(), [after for *_, after in seen])
        found = dict[str, Whole | Product]()
        for (name, before, _), slope in zip(seen, slopes, strict=True):
            own = slope.reshape(len(shares), -1, slope.shape[-1])
            if f"{name}weight" in trainable:
                found[f"{name}weight"] = Product(own.mT, before.reshape(len(shares), -1, before.shape[-1]))
            if f"{name}bias" in trainable:
                found[f"{name}bias"] = Whole(own.sum(dim=1))
        return means.detach(), found

    return gradients


def _layers(model: nn.Sequential, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers in the order in which they are called, each with what its parameters' names begin with."""
    for name, layer in model._modules.items():
        if isinstance(layer, nn.Sequential):
            yield from _layers(layer, f"{prefix}{name}.")
        elif layer is not None:
            yield f"{prefix}{name}.", layer


def _is_elementwise(layer: nn.Module) -> bool:
    """Say whether a layer does to stacked samples what it does to those of one device."""
    if isinstance(layer, nn.Flatten):
        return layer.start_dim == 1
    return isinstance(layer, ELEMENTWISE) and not getattr(layer, "inplace", False)


def _linear(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return what a linear layer makes of the samples of all devices, [k * B, ..., in], with their weights."""
    if not weight.stride(0) and (bias is None or not bias.stride(0)):  # all devices have the same
        return F.linear(values, weight[0], None if bias is None else bias[0])
    own = values.reshape(len(weight), -1, values.shape[-1])
    made = own @ weight.mT if bias is None else torch.baddbmm(bias[:, None], own, weight.mT)
    return made.reshape(*values.shape[:-1], -1)
